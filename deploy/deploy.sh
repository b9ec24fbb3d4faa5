#!/bin/sh
# Installs the collector in the cluster that kubectl talks to: `make deploy BUCKET=…`. Nothing is changed, here or there,
# before everything has been looked at.
set -eu

cd "$(dirname "$0")"
export LC_ALL=C # a-z is no more than that
namespace=ibm-observe
secret=coredump-handler-store
keys=/etc/coredump-handler-store

refuse() {
    echo "make deploy: $1" >&2
    exit 1
}
plain() { # NAME VALUE CHARACTERS: what goes into YAML, and is no secret
    case $2 in *[!$3]*) refuse "$1 has a character that is none of $3" ;; esac
}

[ -n "${BUCKET:-}" ] || refuse 'BUCKET is missing: make deploy BUCKET=A_UNIQUE_NAME [OVERLAY=…] [ENDPOINT=…] [REGION=…] [PATH_STYLE=true] [IMAGE=…] [AUTH=…]'
plain BUCKET "$BUCKET" 'a-z0-9.-'
shape='3 to 63 of a-z0-9.-, beginning and ending with a letter or a digit, and no two dots in a row'
case $BUCKET in [!a-z0-9]* | *[!a-z0-9] | *..* | ? | ??) refuse "BUCKET is \"$BUCKET\", and should be $shape" ;; esac
[ ${#BUCKET} -le 63 ] || refuse "BUCKET has ${#BUCKET} characters, and should be $shape"
plain REGION "${REGION:-}" 'a-z0-9-'
plain ENDPOINT "${ENDPOINT:-}" '][A-Za-z0-9.:/-'
case ${ENDPOINT:-} in
    '' | http://?* | https://?*) ;;
    *) refuse "ENDPOINT is \"$ENDPOINT\", and should begin with https:// or http://" ;;
esac
case ${PATH_STYLE:-} in
    '' | true | false) ;;
    *) refuse "PATH_STYLE is \"$PATH_STYLE\", and not true or false" ;;
esac
plain IMAGE "${IMAGE:-}" 'A-Za-z0-9.:/@_-'
kustomization=${OVERLAY:+overlays/}${OVERLAY:-base}
case ${OVERLAY:-} in */* | .*) refuse "OVERLAY is \"$OVERLAY\", and should be a name" ;; esac
[ -e "$kustomization/kustomization.yaml" ] ||
    refuse "there is no overlay \"$OVERLAY\", but $(for dir in overlays/*/; do basename "$dir"; done | paste -s -d ' ' -)"

command -v kubectl >/dev/null 2>&1 || refuse 'there is no kubectl'
rendered=$(kubectl kustomize "$kustomization")
setting() { # KEY YAML: its value there in uploader.yaml
    printf '%s\n' "$2" | sed -n "s/^ *$1: //p" | tr -d '"'
}
region=${REGION:-$(setting region "$rendered")}
endpoint=${ENDPOINT:-$(setting endpoint "$rendered" | sed "s|$(setting region "$rendered")|$region|")}
path_style=${PATH_STYLE:-$(setting path_style "$rendered")}
image=${IMAGE:-$(printf '%s\n' "$rendered" | sed -n 's/^ *image: //p' | head -n 1)}

case $image:${OVERLAY:-} in
    */*:* | *:kind | *:minikube) ;;
    *) [ -n "${IMAGE:-}" ] || refuse "IMAGE is missing: no registry has $image until you push it to yours (make image IMAGE=REGISTRY/$image)" ;;
esac

# AUTH or the overlay says which credentials. What is in the environment counts if it is of that kind: a role takes nothing
# from there, where an administrator's own AWS_… may be.
auth=${AUTH:-$(setting auth "$rendered")}
pair=${AWS_ACCESS_KEY_ID:-}${AWS_SECRET_ACCESS_KEY:-}
if [ -z "${AUTH:-}" ] && [ "$auth" = hmac ] && [ -n "${IBM_CLOUD_API_KEY:-}" ]; then
    [ -z "$pair" ] ||
        refuse 'AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is set, and IBM_CLOUD_API_KEY as well: say which with AUTH=hmac or AUTH=ibm_api_key'
    auth=ibm_api_key
fi
case $auth in
    hmac)
        files='access_key_id secret_access_key'
        variables='AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY'
        given=$pair
        if [ -n "$given" ]; then
            [ "${AWS_ACCESS_KEY_ID:+id}${AWS_SECRET_ACCESS_KEY:+secret}" = idsecret ] || refuse "$variables are a pair: one of them is missing"
            [ -z "${AWS_SESSION_TOKEN:-}" ] ||
                refuse "AWS_SESSION_TOKEN is set: a pair that comes with one soon ends, and is none for a Secret; unset all three to use the Secret that is there"
        fi
        ;;
    ibm_api_key)
        files=api_key
        variables=IBM_CLOUD_API_KEY
        given=${IBM_CLOUD_API_KEY:-}
        ;;
    aws_web_identity | aws_container | aws_instance)
        files=
        given=
        ;;
    ibm_trusted_profile) refuse 'AUTH is ibm_trusted_profile, which takes a volume more: the chart has it (deploy/helm)' ;;
    *) refuse "AUTH is \"$auth\", and not hmac, ibm_api_key, aws_web_identity, aws_container or aws_instance" ;;
esac

# What the API server answers, not what the kubeconfig promises.
answer=$(kubectl get --raw /version --request-timeout=10s 2>&1) || refuse "no cluster: $(printf '%s\n' "$answer" | tail -n 1)"
installed=$(kubectl get configmap coredump-handler --namespace "$namespace" --ignore-not-found \
    --output 'jsonpath={.data.uploader\.yaml}' 2>&1) ||
    refuse "what is installed cannot be looked at: $(printf '%s\n' "$installed" | tail -n 1)"
# As it was shipped, it was never told where to.
case $installed in *A_UNIQUE_NAME*) installed= ;; esac
overlay=$(kubectl get daemonset coredump-handler --namespace "$namespace" --ignore-not-found \
    --output 'jsonpath={.spec.template.metadata.annotations.coredump-handler/settings}' 2>&1) ||
    refuse "what is installed cannot be looked at: $(printf '%s\n' "$overlay" | tail -n 1)"
case $overlay in
    *.*) overlay=${overlay%%.*} ;;
    *) overlay= ;; # by somebody else: Helm, kubectl
esac
changed=
[ -n "${OVERLAY:-}" ] || [ -z "$overlay" ] || [ "$overlay" = base ] || changed=" OVERLAY=$overlay"
unsaid() { # VARIABLE SAID KEY VALUE
    was=$(setting "$3" "$installed")
    [ -n "$2" ] || [ -z "$was" ] || [ "$was" = "$4" ] || changed="$changed $1=$was"
}
# The overlay's own, of another region, is changed by REGION.
[ "$(setting endpoint "$installed")" = "$(setting endpoint "$rendered" | sed "s|$(setting region "$rendered")|$(setting region "$installed")|")" ] ||
    unsaid ENDPOINT "${ENDPOINT:-}" endpoint "$endpoint"
unsaid REGION "${REGION:-}" region "$region"
unsaid PATH_STYLE "${PATH_STYLE:-}" path_style "$path_style"
unsaid AUTH "${AUTH:-}" auth "$auth"
[ -z "$changed" ] || refuse "installed with$changed, which would change without being said: say it again, or what it should be"
case ${OVERLAY:-}:$endpoint in
    :* | eks:*) ;;
    *:https://s3.us-east-1.amazonaws.com)
        [ -n "${ENDPOINT:-}${REGION:-}$(setting bucket "$installed")" ] ||
            refuse "ENDPOINT is missing: overlay $OVERLAY knows no store; for a bucket on AWS say REGION instead"
        ;;
esac
credential() { # FILE: what the environment has for it, in base64
    case $1 in
        access_key_id) printf %s "$AWS_ACCESS_KEY_ID" ;;
        secret_access_key) printf %s "$AWS_SECRET_ACCESS_KEY" ;;
        api_key) printf %s "$IBM_CLOUD_API_KEY" ;;
    esac | base64 | tr -d '\n'
}
if [ -n "$files" ]; then
    # shellcheck disable=SC2016
    present=$(kubectl get secret "$secret" --namespace "$namespace" --ignore-not-found \
        --output 'go-template={{range $key, $value := .data}}{{$key}}={{$value}} {{end}}' 2>&1) ||
        refuse "the Secret $secret cannot be looked at: $(printf '%s\n' "$present" | tail -n 1)"
    case $auth:${AUTH:-}:" $present" in
        ibm_api_key::*' access_key_id='*)
            refuse "IBM_CLOUD_API_KEY is set, and the Secret $secret has a pair: say which with AUTH=hmac or AUTH=ibm_api_key" ;;
    esac
    for file in $files; do
        case " $present" in
            *" $file="*)
                # An administrator's own may be in the environment as well.
                [ -z "$given" ] || case " $present" in
                    *" $file=$(credential "$file") "*) ;;
                    *) refuse "the Secret $secret has another $file: unset $variables to use it, or delete it before: kubectl delete secret $secret --namespace $namespace" ;;
                esac
                ;;
            *)
                [ -n "$given" ] ||
                    refuse "there are no credentials for $auth: set $variables, or make the Secret $secret in namespace $namespace, which has no $file"
                ;;
        esac
    done
fi

# A change of the settings is a change of the pods, which read them when they start.
settings=${OVERLAY:-base}.$(printf '%s\n' "$rendered" "$BUCKET" "$region" "$endpoint" "$path_style" "$auth" | cksum | tr ' ' -)
lines="auth: $auth"
for file in $files; do
    lines="$lines\\
\\1${file}_file: $keys/$file"
done
[ -z "$path_style" ] || lines="$lines\\
\\1path_style: $path_style"
# Quoted: a bucket may be named 12345678, or true.
manifest=$(
    printf '%s\n' "$rendered" | sed -E \
        -e "s|^( *bucket: ).*|\\1\"$BUCKET\"|" \
        -e "s|^( *endpoint: ).*|\\1\"$endpoint\"|" \
        -e "s|^( *region: ).*|\\1\"$region\"|" \
        -e '/^ *(access_key_id_file|secret_access_key_file|api_key_file|path_style): /d' \
        -e "s|^( *)auth: .*|\\1$lines|" \
        -e "s|^( *image: ).*|\\1$image|" \
        -e "s|^( *coredump-handler/settings: ).*|\\1$settings|"
    # In the arguments of a command everybody on this machine could read them.
    if [ -n "$given" ]; then
        printf '%s\n' --- 'apiVersion: v1' 'kind: Secret' 'metadata:' "  name: $secret" "  namespace: $namespace" 'data:'
        for file in $files; do
            printf '  %s: %s\n' "$file" "$(credential "$file")"
        done
    fi
)

# What is not in a namespace that is there, the server does not judge beforehand.
judge='--dry-run=client'
! kubectl get namespace "$namespace" --output name >/dev/null 2>&1 || judge='--dry-run=server --server-side --force-conflicts'
# shellcheck disable=SC2086
if ! answer=$(printf '%s\n' "$manifest" | kubectl apply $judge --filename - 2>&1); then
    # Of what is invalid the last line says why, without the word.
    why=$(printf '%s\n' "$answer" | grep -i error | head -n 1)
    refuse "the cluster would refuse it, and nothing was applied: ${why:-$(printf '%s\n' "$answer" | tail -n 1)}"
fi
# By the server: the client would leave a copy of the Secret in an annotation.
printf '%s\n' "$manifest" | kubectl apply --server-side --force-conflicts --filename -

if ! kubectl rollout status daemonset/coredump-handler --namespace "$namespace" --timeout="${TIMEOUT:-15m}"; then
    kubectl get pods --namespace "$namespace" --selector app.kubernetes.io/name=coredump-handler --output wide >&2 || true
    kubectl get events --namespace "$namespace" --field-selector type=Warning \
        --output custom-columns=POD:.involvedObject.name,WHY:.message --no-headers >&2 || true
    kubectl get pods --namespace "$namespace" --selector app.kubernetes.io/name=coredump-handler --no-headers \
        --output 'custom-columns=POD:.metadata.name,WHY:.status.containerStatuses[*].lastState.terminated.message' >&2 || true
    refuse 'it is installed, but not every node collects; above is why'
fi
cat <<END
Every node collects. See for yourself:

  kubectl run -it busybox --image=busybox --restart=Never -- sh -c 'sh -c "kill -11 \\\$\\\$"; true' # not its process 1: the kernel spares that
  kubectl describe pod busybox        # its Events: CoreDumped, and CoreDumpUploaded with the key in the bucket $BUCKET
  node=\$(kubectl get pod busybox --output 'jsonpath={.spec.nodeName}')
  pod=\$(kubectl get pods --namespace $namespace --selector app.kubernetes.io/name=coredump-handler --field-selector "spec.nodeName=\$node" --output name)
  kubectl exec --namespace $namespace "\$pod" --container uploader -- uploader ls # what is in that node's spool
  kubectl delete pod busybox
END
