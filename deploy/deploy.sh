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

[ -n "${BUCKET:-}" ] || refuse 'BUCKET is missing: make deploy BUCKET=A_UNIQUE_NAME [OVERLAY=…] [ENDPOINT=…] [REGION=…] [IMAGE=…] [AUTH=…]'
plain BUCKET "$BUCKET" 'a-z0-9.-'
plain REGION "${REGION:-}" 'a-z0-9-'
plain ENDPOINT "${ENDPOINT:-}" 'A-Za-z0-9.:/-'
plain IMAGE "${IMAGE:-}" 'A-Za-z0-9.:/@_-'
kustomization=${OVERLAY:+overlays/}${OVERLAY:-base}
case ${OVERLAY:-} in */* | .*) refuse "OVERLAY is \"$OVERLAY\", and should be a name" ;; esac
[ -e "$kustomization/kustomization.yaml" ] ||
    refuse "there is no overlay \"$OVERLAY\", but $(for dir in overlays/*/; do basename "$dir"; done | paste -s -d ' ' -)"

hmac=${AWS_ACCESS_KEY_ID:-}${AWS_SECRET_ACCESS_KEY:-}
[ -z "$hmac" ] || [ -z "${IBM_CLOUD_API_KEY:-}" ] ||
    refuse 'AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is set, and IBM_CLOUD_API_KEY as well: one of them is one too many'
if [ -n "$hmac" ]; then
    [ "${AWS_ACCESS_KEY_ID:+id}${AWS_SECRET_ACCESS_KEY:+secret}" = idsecret ] ||
        refuse 'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are a pair: one of them is missing'
    given=hmac
elif [ -n "${IBM_CLOUD_API_KEY:-}" ]; then
    given=ibm_api_key
else
    given=
fi

command -v kubectl >/dev/null 2>&1 || refuse 'there is no kubectl'
rendered=$(kubectl kustomize "$kustomization")
setting() { # KEY: its value in uploader.yaml
    printf '%s\n' "$rendered" | sed -n "s/^ *$1: //p"
}
auth=${AUTH:-${given:-$(setting auth)}}
[ -z "$given" ] || [ "$auth" = "$given" ] ||
    refuse "AUTH is $auth, and in the environment there are credentials for $given"
region=${REGION:-$(setting region)}
endpoint=${ENDPOINT:-$(setting endpoint | sed "s|$(setting region)|$region|")}
image=${IMAGE:-$(printf '%s\n' "$rendered" | sed -n 's/^ *image: //p' | head -n 1)}

case $image:${OVERLAY:-} in
    */*:* | *:kind | *:minikube) ;;
    *) [ -n "${IMAGE:-}" ] || refuse "IMAGE is missing: no registry has $image until you push it to yours (make image IMAGE=REGISTRY/$image)" ;;
esac

case $auth in
    hmac) files='access_key_id secret_access_key' ;;
    ibm_api_key) files=api_key ;;
    aws_web_identity | aws_container | aws_instance) files= ;;
    ibm_trusted_profile) refuse 'AUTH is ibm_trusted_profile, which takes a volume more: the chart has it (deploy/helm)' ;;
    *) refuse "AUTH is \"$auth\", and not hmac, ibm_api_key, aws_web_identity, aws_container or aws_instance" ;;
esac

# What the API server answers, not what the kubeconfig promises.
answer=$(kubectl get --raw /version --request-timeout=10s 2>&1) || refuse "no cluster: $(printf '%s\n' "$answer" | tail -n 1)"
if [ -n "$files" ] && [ -z "$given" ] &&
    ! kubectl get secret "$secret" --namespace "$namespace" --output name >/dev/null 2>&1; then
    refuse "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or IBM_CLOUD_API_KEY, or make the Secret $secret in namespace $namespace"
fi

# A change of the settings is a change of the pods, which read them when they start.
settings=$(printf '%s\n' "$rendered" "$BUCKET" "$region" "$endpoint" "$auth" | cksum | tr ' ' -)
lines="auth: $auth"
for file in $files; do
    lines="$lines\\
\\1${file}_file: $keys/$file"
done
manifest=$(
    printf '%s\n' "$rendered" | sed -E \
        -e "s|^( *bucket: )A_UNIQUE_NAME\$|\\1$BUCKET|" \
        -e "s|^( *endpoint: ).*|\\1$endpoint|" \
        -e "s|^( *region: ).*|\\1$region|" \
        -e '/^ *(access_key_id|secret_access_key|api_key)_file: /d' \
        -e "s|^( *)auth: .*|\\1$lines|" \
        -e "s|^( *image: ).*|\\1$image|" \
        -e "s|^( *coredump-handler/settings: ).*|\\1$settings|"
    # In the arguments of a command everybody on this machine could read them.
    if [ -n "$given" ]; then
        printf '%s\n' --- 'apiVersion: v1' 'kind: Secret' 'metadata:' "  name: $secret" "  namespace: $namespace" 'data:'
        for file in $files; do
            case $file in
                access_key_id) value=$AWS_ACCESS_KEY_ID ;;
                secret_access_key) value=$AWS_SECRET_ACCESS_KEY ;;
                api_key) value=$IBM_CLOUD_API_KEY ;;
            esac
            printf '  %s: %s\n' "$file" "$(printf %s "$value" | base64 | tr -d '\n')"
        done
    fi
)

# What is not in a namespace that is there, the server does not judge beforehand.
judge='--dry-run=client'
! kubectl get namespace "$namespace" --output name >/dev/null 2>&1 || judge='--dry-run=server --server-side --force-conflicts'
# shellcheck disable=SC2086
answer=$(printf '%s\n' "$manifest" | kubectl apply $judge --filename - 2>&1) ||
    refuse "the cluster would refuse it, and nothing was applied: $(printf '%s\n' "$answer" | grep -i error | head -n 1)"
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
  kubectl exec --namespace $namespace daemonset/coredump-handler --container uploader -- uploader ls
  kubectl delete pod busybox
END
