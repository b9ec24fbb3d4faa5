#!/bin/sh
# Removes the collector from the cluster that kubectl talks to: `make undeploy [OVERLAY=…]`. Each installer, when it is
# stopped and its DaemonSet is going, gives its node back. Dumps that were not uploaded stay on the nodes; and the namespace
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

pods() {
    kubectl get pods --namespace "$namespace" --selector app.kubernetes.io/name=coredump-handler \
        --output 'jsonpath={range .items[*]}{.spec.nodeName} {.spec.containers[0].image}{"\n"}{end}' 2>/dev/null
}
# The DaemonSet before its account: with it the installers ask whether they are to go.
if ! kubectl delete daemonset coredump-handler --namespace "$namespace" --ignore-not-found \
    --cascade=foreground --wait --timeout="${TIMEOUT:-5m}"; then
    host_dir=$(printf '%s\n' "$rendered" | sed -n 's/^ *host_dir: //p' | head -n 1)
    echo 'These nodes have not been given back, because their pod does not end or they do not answer:' >&2
    pods | while read -r node image; do
        echo "  $node; by hand: echo 'host_dir: $host_dir' | kubectl debug node/$node --namespace kube-system --stdin --profile=sysadmin --image=$image -- installer --config /dev/stdin --host-root /host uninstall" >&2
    done
    refuse 'not every node is clean, and the rest of the collector is left as it is'
fi
printf '%s\n' "$rendered" | awk '
    function out() { if (doc !~ /\nkind: Namespace\n/) printf "---%s", doc; doc = "\n" }
    BEGIN { doc = "\n" }
    /^---$/ { out(); next }
    { doc = doc $0 "\n" }
    END { out() }' | kubectl delete --ignore-not-found --wait --timeout="${TIMEOUT:-5m}" --filename -
cat <<END
Every installer has ended, and has given its node back unless it could not ask the API server. To see what a node has:

  kubectl debug node/NODE --namespace kube-system -it --profile=sysadmin --image=busybox -- cat /proc/sys/kernel/core_pattern

Dumps that were not uploaded are in the spool of their node. The namespace $namespace is left with what else is in it.
END
