#!/bin/sh
# Prepares IBM Cloud and the cluster for the collector: an Object Storage
# instance, a bucket, a key that can write into that bucket and no more, and
# the namespace with the Secret that has the key. What is there is used again.
set -eu

usage="usage: sh deploy/install-cos.sh --bucket NAME [OPTION...]

  --bucket NAME          of the bucket; unique among all users of IBM Cloud
  --cluster NAME         kubectl has to talk to this one; default: whichever it talks to
  --instance NAME|CRN    of Object Storage; default: coredump-handler
  --region REGION        of a new bucket; default: the cluster's
  --resource-group NAME  of a new instance; default: the targeted one
  --roles ROLE[,ROLE]    of the key, in place of a custom role; see below
  --endpoint KIND        private, direct or public; default: what the cluster reaches
  --dry-run              only prints each command that would change something

To write and to look whether it is there is what no predefined role allows by
itself. The script makes a custom role, which an administrator of the account's
role management may. Others may use --roles 'Object Writer,Object Reader': with
that key dumps can be read as well."

bucket=
cluster=
instance=coredump-handler
region=
group=
roles=
endpoint=
dry=
namespace=ibm-observe
secret=coredump-handler-store
# What the uploader asks of the store. HEAD (object.head) is missing in Object
# Writer; Object Reader has it, and reads every dump of every cluster there;
# Writer even deletes them. Listing uploads in parts (bucket.get_uploads) is for
# one whose beginning was not answered. Which role allows which action:
# https://cloud.ibm.com/docs/account?topic=account-iam-service-roles-actions
role=CoredumpUploader
actions=
for action in object.put object.head object.post_initiate_upload object.put_part \
    object.post_complete_upload object.delete_upload bucket.get_uploads; do
    actions=$actions${actions:+,}cloud-object-storage.$action
done

end() { # STATUS WHY
    echo "install-cos: $2" >&2
    exit "$1"
}
die() { end 1 "$1"; } # WHY
made() { [ -n "$dry" ] || echo "$1: made"; } # WHAT

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry=yes ;;
    -h | --help)
        echo "$usage"
        exit
        ;;
    --bucket | --cluster | --instance | --region | --resource-group | --roles | --endpoint)
        [ -n "${2-}" ] || end 64 "$1 needs a value"
        case $1 in
        --bucket) bucket=$2 ;;
        --cluster) cluster=$2 ;;
        --instance) instance=$2 ;;
        --region) region=$2 ;;
        --resource-group) group=$2 ;;
        --roles) roles=$2 ;;
        --endpoint) endpoint=$2 ;;
        esac
        shift
        ;;
    *) end 64 "$1 is no option; --help lists them" ;;
    esac
    shift
done
[ -n "$bucket" ] || end 64 'a name for the bucket is needed: --bucket NAME'
# The rules of Object Storage.
case $bucket in
*[!a-z0-9.-]* | [!a-z0-9]* | *[!a-z0-9] | *..* | ? | ??)
    end 64 "$bucket cannot name a bucket: 3 to 63 of a-z, 0-9, - and ., beginning and ending with a letter or a digit"
    ;;
esac
[ ${#bucket} -le 63 ] || end 64 "$bucket cannot name a bucket: it has more than 63 characters"
case $endpoint in
'' | private | direct | public) ;;
*) end 64 "$endpoint is no endpoint: private, direct or public" ;;
esac

for tool in ibmcloud jq; do
    command -v $tool >/dev/null 2>&1 || die "$tool is needed, and is not in PATH"
done
kube=kubectl
command -v kubectl >/dev/null 2>&1 || kube=oc
command -v $kube >/dev/null 2>&1 || die 'kubectl or oc is needed, and neither is in PATH'

# JSON and nothing else on standard output.
export IBMCLOUD_COLOR=false IBMCLOUD_VERSION_CHECK=false
# For the filters of jq.
export bucket instance role namespace secret

of() { # JSON FILTER
    printf '%s' "${1:-null}" | jq -r "$2" || die 'that is not what ibmcloud is known to say'
}
exec 3>&1
change() { # COMMAND...: each that changes something
    if [ -z "$dry" ]; then
        "$@"
    else
        for word; do
            case $word in
            *[!A-Za-z0-9_./:=,@-]*) printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" ;;
            *) printf ' %s' "$word" ;;
            esac
        done >&3
        echo >&3
    fi
}
# The first seconds after it was made, IAM may not yet know everywhere what it made.
patiently() { # COMMAND...
    for _ in 1 2 3 4 5; do
        if said=$(change "$@"); then return; fi
        sleep 6
    done
    said=$(change "$@")
}

# First it looks at all that is there, and ends at what is wrong with it.

target=$(ibmcloud target --output json) || target=
[ -n "$(printf '%s' "$target" | jq -r '.account.guid // empty' 2>/dev/null)" ] ||
    die 'not logged in to IBM Cloud, or no account is targeted: run ibmcloud login'
for plugin in container-service cloud-object-storage; do
    ibmcloud plugin show $plugin >/dev/null 2>&1 ||
        die "ibmcloud lacks a plug-in: run ibmcloud plugin install $plugin"
done

connect='run ibmcloud ks cluster config --cluster'
context=$($kube config current-context) || die "$kube has no current context: $connect NAME"
# Every cluster of IBM Cloud says there which one it is.
info=$($kube get configmap cluster-info --namespace kube-system --ignore-not-found \
    --output 'jsonpath={.data.cluster-config\.json}') ||
    die "$kube cannot ask the cluster of its current context, $context"
connected=$(of "$info" '.cluster_id // empty')
[ -n "$connected" ] ||
    die "the current context of $kube, $context, is no cluster of IBM Cloud: $connect NAME"
found=$(ibmcloud ks cluster get --cluster "${cluster:-$connected}" --output json) ||
    die "this account has no cluster ${cluster:-$connected}, or you may not see it"
cluster=$(of "$found" .name)
id=$(of "$found" .id)
[ "$id" = "$connected" ] ||
    die "$kube talks to cluster $connected and not to $cluster ($id): $connect $cluster"
overlay=$(of "$found" 'if .type == "openshift" then "roks" else "iks" end')
# .region of some clusters is a name that only the Kubernetes service has.
region=${region:-$(of "$found" '((.crn // "") | split(":")[5]) // .region')}
# Private endpoints cannot be reached from a VPC, and direct ones from nowhere else:
# https://cloud.ibm.com/docs/cloud-object-storage?topic=cloud-object-storage-endpoints
endpoint=${endpoint:-$(of "$found" 'if (.provider // "") | startswith("vpc") then "direct" else "private" end')}

for right in 'create namespaces' "create secrets --namespace $namespace"; do
    # shellcheck disable=SC2086
    $kube auth can-i $right >/dev/null 2>&1 || die "in cluster $cluster you may not: $right"
done
if [ "$overlay" = roks ]; then
    $kube auth can-i create securitycontextconstraints >/dev/null 2>&1 ||
        die "in cluster $cluster you may not create securitycontextconstraints, which the collector needs"
fi
space=$($kube get namespace $namespace --ignore-not-found \
    --output 'jsonpath={.metadata.name}={.metadata.labels.pod-security\.kubernetes\.io/enforce}') ||
    die "in cluster $cluster namespace $namespace cannot be looked at"
# Of the pair this half is no secret.
present=$($kube get secret $secret --namespace $namespace --ignore-not-found \
    --output 'jsonpath={.data.access_key_id}') ||
    die "in cluster $cluster Secret $secret of namespace $namespace cannot be looked at"

instances() {
    ibmcloud resource service-instances --service-name cloud-object-storage --all-resource-groups --output json ||
        die 'the instances of Object Storage cannot be listed'
}
found=$(instances)
crn=$(of "$found" '[.[]? | select(env.instance == (.name, .guid, .id)) | .id] | unique | join(" ")')
case $crn in *' '*) die "there are several instances $instance; choose one with --instance CRN: $crn" ;; esac
if [ -z "$crn" ]; then
    case $instance in crn:*) die "there is no instance $instance of Object Storage" ;; esac
    group=${group:-$(of "$target" '.resource_group.name // empty')}
    [ -n "$group" ] || die "a new instance needs a resource group: --resource-group NAME, or ibmcloud target -g NAME"
fi

location=
if [ -n "$crn" ]; then
    found=$(ibmcloud cos buckets-extended --ibm-service-instance-id "$crn" --prefix "$bucket" --output json) ||
        die "the buckets of instance $instance cannot be listed"
    location=$(of "$found" '.Buckets[]? | select(.Name == env.bucket) | .LocationConstraint')
fi
if [ -n "$location" ]; then
    # us-south-standard: where it is, and its storage class.
    region=${location%-*}
elif said=$(ibmcloud cos bucket-head --bucket "$bucket" --region "$region" 2>&1); then
    die "bucket $bucket is in another instance of yours: name that with --instance, or choose another name"
else
    case $said in *'status code: 403'* | *denied*) die "bucket $bucket is somebody else's: choose another name" ;; esac
fi

# One for each cluster, so that each can be taken back by itself.
holder=coredump-handler-$id
export holder
if [ -z "$roles" ]; then
    found=$(ibmcloud iam roles --service cloud-object-storage --output json) ||
        die 'the roles of Object Storage cannot be listed'
    known=$(of "$found" 'first(.. | strings | select(. == env.role)) // empty')
else
    known=yes
fi
found=$(ibmcloud iam service-ids --output json) || die 'the service IDs of the account cannot be listed'
service=$(of "$found" '[.[]? | select(.name == env.holder) | .id] | join(" ")')
case $service in *' '*) die "there are several service IDs $holder; delete those that are not used: $service" ;; esac

rights() { # prints how many policies for the bucket the service ID has
    found=$(ibmcloud iam service-policies "$service" --output json) ||
        die "the policies of service ID $holder cannot be listed"
    strangers=$(of "$found" '[.[]? | select([.. | strings] | index(env.bucket) | not) | .id] | join(" ")')
    [ -z "$strangers" ] ||
        die "service ID $holder may do more than write into $bucket; delete its other policies:\
 ibmcloud iam service-policy-delete $holder $strangers"
    of "$found" '. // [] | length'
}
policies=0
[ -z "$service" ] || policies=$(rights)

pair_of() { # JSON: of a key
    of "$1" 'if type == "array" then .[0] else . end | .credentials.cos_hmac_keys // empty'
}
delete='ibmcloud resource service-key-delete'
key=
pair=
opened=none
if [ -n "$crn" ]; then
    found=$(ibmcloud resource service-keys --instance-id "$crn" --output json) ||
        die "the keys of instance $instance cannot be listed"
    key=$(of "$found" '[.[]? | select(.name == env.holder) | .id][0] // empty')
fi
if [ -n "$key" ]; then
    [ -n "$service" ] || die "key $holder has lost its service ID, and opens nothing; delete it: $delete $key"
    found=$(ibmcloud resource service-key "$key" --output json) || die "key $holder cannot be read"
    pair=$(pair_of "$found")
    [ -n "$pair" ] || die "key $holder is not shown to you, or has no HMAC pair; an administrator may see it,\
 or delete it: $delete $key"
    opened=$(of "$pair" '.access_key_id | @base64')
fi
[ -z "$present" ] || [ "$present" = "$opened" ] ||
    die "Secret $secret in $namespace has another key; if nobody needs that:\
 $kube delete secret $secret --namespace $namespace"

# And only then it makes what is missing.

if [ -n "$crn" ]; then
    echo "instance $instance: there"
else
    said=$(change ibmcloud resource service-instance-create "$instance" cloud-object-storage standard global \
        -g "$group") || die "instance $instance could not be made: $said"
    made "instance $instance"
    crn=NEW-INSTANCE
    if [ -z "$dry" ]; then
        found=$(instances)
        crn=$(of "$found" '.[]? | select(.name == env.instance) | .id')
        [ -n "$crn" ] || die "instance $instance was made, and is not listed yet: run this again in a minute"
    fi
fi

if [ -n "$location" ]; then
    echo "bucket $bucket: there"
else
    said=$(change ibmcloud cos bucket-create --bucket "$bucket" --ibm-service-instance-id "$crn" \
        --region "$region" --class standard 2>&1) ||
        case $said in
        *'not available'* | *'already exists'*) die "bucket $bucket is somebody else's: choose another name" ;;
        *) die "bucket $bucket could not be made in $region: $said" ;;
        esac
    made "bucket $bucket, in $region"
fi

if [ -z "$known" ]; then
    said=$(change ibmcloud iam role-create $role --display-name $role --service-name cloud-object-storage \
        --actions "$actions" --description 'Puts objects and looks whether they are there; cannot read them') ||
        die "role $role could not be made; have an administrator run this,\
 or use --roles 'Object Writer,Object Reader', with which the key also reads dumps: $said"
    made "role $role"
fi
if [ -z "$service" ]; then
    said=$(change ibmcloud iam service-id-create "$holder" --description "Core dumps of cluster $cluster") ||
        die "service ID $holder could not be made: $said"
    made "service ID $holder"
    service=$holder
fi
if [ "$policies" = 0 ]; then
    guid=${crn%::}
    patiently ibmcloud iam service-policy-create "$service" --roles "${roles:-$role}" \
        --service-name cloud-object-storage --service-instance "${guid##*:}" \
        --resource-type bucket --resource "$bucket" --force ||
        die "service ID $holder could not be given its rights on bucket $bucket: $said"
    made "right of $holder to write into bucket $bucket"
fi

if [ -n "$key" ]; then
    echo "key $holder: there"
else
    # Without a role of its own: that would be one on the whole instance.
    found=$(change ibmcloud resource service-key-create "$holder" --instance-id "$crn" --service-id "$service" \
        --parameters '{"HMAC":true}' --force --output json) || die "key $holder could not be made"
    made "key $holder"
    if [ -z "$dry" ]; then
        pair=$(pair_of "$found")
        [ -n "$pair" ] || die "key $holder was made, and has no HMAC pair; delete it: $delete $holder"
        rights >/dev/null
    fi
fi

# As in deploy/base: pods that mount paths of the host are privileged.
if [ "$space" = $namespace=privileged ]; then
    echo "namespace $namespace: there"
else
    if [ -z "$space" ]; then
        said=$(change $kube create namespace $namespace --save-config) ||
            die "namespace $namespace could not be made: $said"
    fi
    said=$(change $kube label namespace $namespace --overwrite pod-security.kubernetes.io/enforce=privileged \
        pod-security.kubernetes.io/audit=privileged pod-security.kubernetes.io/warn=privileged) ||
        die "namespace $namespace could not be labelled: $said"
    made "namespace $namespace, for privileged pods"
fi
if [ -n "$present" ]; then
    echo "Secret $secret: there"
else
    [ -z "$dry" ] || echo " # with Secret $secret on standard input:"
    # Not in arguments, which everybody may read; and by the server, since the
    # client leaves a copy in an annotation.
    printf '%s' "${pair:-null}" | jq '{apiVersion: "v1", kind: "Secret", type: "Opaque",
        metadata: {name: env.secret, namespace: env.namespace},
        stringData: {access_key_id: .access_key_id, secret_access_key: .secret_access_key}}' |
        change $kube apply --server-side --force-conflicts --filename - >/dev/null ||
        die "Secret $secret could not be made"
    made "Secret $secret"
fi

case $endpoint in
public) url=https://s3.$region.cloud-object-storage.appdomain.cloud ;;
*) url=https://s3.$endpoint.$region.cloud-object-storage.appdomain.cloud ;;
esac
[ "$overlay" = iks ] || echo 'SecurityContextConstraints: come with the overlay or the chart, as does their binding'
echo "
To install, with make:

    make deploy BUCKET=$bucket OVERLAY=$overlay ENDPOINT=$url REGION=$region IMAGE=REGISTRY/coredump-handler:0.1.0

or with helm:

    helm install coredump-handler deploy/helm/coredump-handler --namespace $namespace \\
        --values deploy/helm/coredump-handler/values-$overlay.yaml \\
        --set bucket.name=$bucket --set bucket.endpoint=$url --set bucket.region=$region \\
        --set image.repository=REGISTRY/coredump-handler"
