#!/bin/sh
# ibmcloud, kubectl, oc and sleep, by the name it is called by: an account and a
# cluster that are files in $CLOUD. It remembers what was made, and writes down
# how it was called. A file $CLOUD/fault-NAME is something that goes wrong. The
# answers have the fields that the documentation of the real ones shows. jq is
# the real one, $JQ, but for the writing down.
set -eu

called=${0##*/}
echo "$called $*" >>"$CLOUD/calls"

account=abac0df06b644a9cabc6e44f55b3880e
fault() { [ -e "$CLOUD/fault-$1" ]; }
failed() { # WHY
    printf 'FAILED\n%s\n\n' "$1" >&2
    exit 1
}
list() { # KIND: what was made of it, as an array
    printf '['
    comma=
    for made in "$CLOUD/$1".*; do
        [ -e "$made" ] || continue
        printf '%s' "$comma"
        cat "$made"
        comma=,
    done
    printf ']\n'
}
option() { # NAME ARGUMENT...
    name=$1
    shift
    while [ "$1" != "$name" ]; do shift; done
    echo "$2"
}

ibmcloud() {
    case "$1 $2 ${3-}" in
    'target --output json')
        fault logged-out && failed "Not logged in. Use 'ibmcloud login' to log in."
        fault no-group && group=null || group='{"guid":"9eba3cff1b0540b9ab7fb93829911da0","name":"default"}'
        echo '{"api_endpoint":"https://cloud.ibm.com","region":{"name":"us-south"},"account":{"guid":"'$account'","name":"Acme"},"resource_group":'"$group"'}'
        ;;
    'plugin show '*)
        fault no-plugin && failed "Plug-in '$3' was not found."
        echo "Plugin Name $3"
        ;;
    'ks cluster get')
        case $5 in
        mycluster | cehb47hw0bghltkq14og) cat "$CLOUD/cluster" ;;
        other) echo '{"id":"bm64u3ed02o93vv36hb0","name":"other","region":"us-south","type":"kubernetes"}' ;;
        *) failed 'The specified cluster could not be found. (A0006)' ;;
        esac
        ;;
    'resource service-instances '*) list instance ;;
    'resource service-instance-create '*)
        guid=1fb9129a-d685-42a2-bafe-f358cbfb7e5$(list instance | grep -o '"guid"' | wc -l)
        crn=crn:v1:bluemix:public:cloud-object-storage:global:a/$account:$guid::
        echo '{"id":"'"$crn"'","guid":"'"$guid"'","name":"'"$3"'","region_id":"global","state":"active","crn":"'"$crn"'"}' >"$CLOUD/instance.$guid"
        echo "Service instance $3 was created."
        ;;
    'cos buckets-extended '*) printf '{"Buckets":%s,"Owner":{"ID":"%s"},"IsTruncated":false}' "$(list bucket)" $account ;;
    'cos bucket-head '*)
        fault taken && failed "$(printf 'Forbidden: Forbidden\n\tstatus code: 403, request id: 4f04, host id: ')"
        fault elsewhere || failed "$(printf 'NotFound: Not Found\n\tstatus code: 404, request id: 4403, host id: ')"
        ;;
    'cos bucket-create '*)
        fault unavailable && failed 'The requested bucket name is not available. The bucket namespace is shared by all users of the system. Select a different name and try again.'
        fault broken && failed 'InternalError: We encountered an internal error.'
        echo '{"Name":"'"$4"'","CreationDate":"2026-11-22T19:31:02.113Z","LocationConstraint":"'"$(option --region "$@")-$(option --class "$@")"'"}' >"$CLOUD/bucket.$4"
        echo OK
        ;;
    'iam roles '*)
        printf '{"systemRoles":[{"displayName":"Viewer"}],"serviceRoles":[{"displayName":"Object Writer","crn":"crn:v1:bluemix:public:iam::::serviceRole:ObjectWriter"}],"customRoles":%s}' "$(list role)"
        ;;
    'iam role-create '*)
        fault no-administrator && failed 'You are not authorized to perform this operation.'
        echo '{"name":"'"$3"'","displayName":"'"$(option --display-name "$@")"'"}' >"$CLOUD/role.$3"
        ;;
    'iam service-ids '*) list service ;;
    'iam service-id-create '*)
        echo '{"id":"ServiceId-dc98af04-3ddb-4f94-9c22-7b2744342cd1","name":"'"$3"'"}' >"$CLOUD/service.$3"
        ;;
    'iam service-policies '*) list policy ;;
    'iam service-policy-create '*)
        fault slow-iam && rm "$CLOUD/fault-slow-iam" && failed "Service ID $3 was not found."
        echo '{"id":"140798e2-8ea7db3","type":"access","roles":[{"display_name":"'"$(option --roles "$@")"'"}],"resources":[{"attributes":[{"name":"serviceName","value":"cloud-object-storage"},{"name":"serviceInstance","value":"'"$(option --service-instance "$@")"'"},{"name":"resourceType","value":"bucket"},{"name":"resource","value":"'"$(option --resource "$@")"'"}]}]}' >"$CLOUD/policy.ours"
        ;;
    'resource service-keys '*) list key ;;
    'resource service-key '*)
        fault redacted && echo '[{"name":"coredump-handler","credentials":{"REDACTED":"REDACTED"}}]' && return
        list key
        ;;
    'resource service-key-create '*)
        fault wide-key && echo '{"id":"7d0354fa","type":"access","roles":[{"display_name":"Writer"}],"resources":[{"attributes":[{"name":"serviceName","value":"cloud-object-storage"}]}]}' >"$CLOUD/policy.stranger"
        echo '{"id":"crn:v1:bluemix:public:cloud-object-storage:global:a/'$account':1fb9:resource-key:9057f12e","guid":"9057f12e","name":"'"$3"'","credentials":{"apikey":"SECRET-API-KEY","cos_hmac_keys":{"access_key_id":"347aa3a4b34344f8bc7c7cccdf856e4c","secret_access_key":"SECRET-ACCESS-KEY"},"iam_role_crn":""}}' >"$CLOUD/key.$(list key | grep -o '"guid"' | wc -l)"
        list key | sed 's/^\[//; s/\]$//'
        ;;
    *) failed "'$1 $2' is not a registered command." ;;
    esac
}

kubectl() {
    case "$1 $2 ${3-}" in
    'config current-context '*)
        fault no-context && failed 'error: current-context is not set'
        echo mycluster/cehb47hw0bghltkq14og
        ;;
    'get configmap cluster-info')
        fault unreachable && failed 'Unable to connect to the server: dial tcp: i/o timeout'
        fault no-ibm-cluster || echo '{"cluster_id":"cehb47hw0bghltkq14og","cluster_name":"mycluster","datacenter":"dal10","region":"us-south"}'
        ;;
    'auth can-i '*)
        if fault "no-$4"; then
            echo no
            return 1
        fi
        echo yes
        ;;
    'get namespace '*) [ ! -e "$CLOUD/namespace" ] || echo "$3=$(cat "$CLOUD/namespace")" ;;
    'create namespace '*) : >"$CLOUD/namespace" ;;
    'label namespace '*) echo privileged >"$CLOUD/namespace" ;;
    'get secret '*) [ ! -e "$CLOUD/secret" ] || "$JQ" -r '.stringData.access_key_id | @base64' "$CLOUD/secret" ;;
    'apply --server-side '*)
        fault no-secret && failed 'Error from server (Forbidden): secrets is forbidden'
        cat >"$CLOUD/secret"
        ;;
    *) failed "error: unknown command \"$1\"" ;;
    esac
}

case $called in
ibmcloud) ibmcloud "$@" ;;
kubectl | oc) kubectl "$@" ;;
sleep) ;;
jq) exec "$JQ" "$@" ;;
esac
