#!/bin/sh
# Removes the collector from the cluster that kubectl talks to: `make undeploy [OVERLAY=…]`. Each installer, when it is
# stopped and its DaemonSet is going, gives its node back and says so; a node of which that was not heard is named. Dumps that were not uploaded stay on the nodes; and the namespace
# stays, which may be others' as well.
set -eu

cd "$(dirname "$0")"
namespace=ibm-observe

refuse() {
    echo "make undeploy: $1" >&2
    exit 1
}
kustomization=${OVERLAY:+overlays/}${OVERLAY:-base}
case ${OVERLAY:-} in */* | .*) refuse "OVERLAY is \"$OVERLAY\", and should be a name" ;; esac
[ -e "$kustomization/kustomization.yaml" ] ||
    refuse "there is no overlay \"$OVERLAY\", but $(for dir in overlays/*/; do basename "$dir"; done | paste -s -d ' ' -)"
command -v kubectl >/dev/null 2>&1 || refuse 'there is no kubectl'
rendered=$(kubectl kustomize "$kustomization")
answer=$(kubectl get --raw /version --request-timeout=10s 2>&1) || refuse "no cluster: $(printf '%s\n' "$answer" | tail -n 1)"

pods() { # NAME NODE IMAGE
    kubectl get pods --namespace "$namespace" --selector app.kubernetes.io/name=coredump-handler \
        --output 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.spec.containers[0].image}{"\n"}{end}' 2>/dev/null
}
host_dir=$(printf '%s\n' "$rendered" | sed -n 's/^ *host_dir: //p' | head -n 1)
by_hand() { # NODE IMAGE
    echo "echo 'host_dir: $host_dir' | kubectl debug node/$1 --namespace kube-system --stdin --profile=sysadmin --image=$2 -- installer --config /dev/stdin --host-root /host uninstall"
}

before=$(pods)
heard=$(mktemp)
trap 'rm -f "$heard"' EXIT
kubectl logs --follow --prefix --tail=1 --max-log-requests=10000 --namespace "$namespace" --container installer \
    --selector app.kubernetes.io/name=coredump-handler >"$heard" 2>/dev/null &
listener=$!
# The DaemonSet before its account: with it the installers ask whether they are to go.
if ! kubectl delete daemonset coredump-handler --namespace "$namespace" --ignore-not-found \
    --cascade=foreground --wait --timeout="${TIMEOUT:-5m}"; then
    kill "$listener" 2>/dev/null || :
    echo 'These nodes have not been given back, because their pod does not end or they do not answer:' >&2
    pods | while read -r _ node image; do
        echo "  $node; by hand: $(by_hand "$node" "$image")" >&2
    done
    refuse 'not every node is clean, and the rest of the collector is left as it is'
fi
printf '%s\n' "$rendered" | awk '
    function out() { if (doc !~ /\nkind: Namespace\n/) printf "---%s", doc; doc = "\n" }
    BEGIN { doc = "\n" }
    /^---$/ { out(); next }
    { doc = doc $0 "\n" }
    END { out() }' | kubectl delete --ignore-not-found --wait --timeout="${TIMEOUT:-5m}" --filename -
# The last words may still be on their way.
sleep 1
kill "$listener" 2>/dev/null || :
wait "$listener" 2>/dev/null || :
silent=$(printf '%s\n' "$before" | while read -r pod node image; do
    [ -n "$pod" ] || continue
    last=$(grep -F "[pod/$pod/installer]" "$heard" | tail -n 1 | cut -d ' ' -f 2-)
    case $last in
        *'this node is what it was before'*) ;;
        *) echo "  $node: $last; by hand: $(by_hand "$node" "$image")" ;;
    esac
done)
if [ -n "$silent" ]; then
    echo 'Of these nodes it was not heard that they are what they were before:' >&2
    printf '%s\n' "$silent" >&2
    refuse 'the collector is removed, but not every node is known to be clean'
fi
cat <<END
Every node is what it was before, but for dumps that were not uploaded: they are in its spool. The namespace $namespace is
left with what else is in it.
END
