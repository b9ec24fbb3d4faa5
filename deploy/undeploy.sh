#!/bin/sh
# Removes the collector from the cluster that kubectl talks to: `make undeploy`. Each installer, when it is stopped and its
# DaemonSet is going, gives its node back and says so; a node of which that was not heard is named. Dumps that were not
# uploaded stay on the nodes; and the namespace stays, which may be others' as well. OVERLAY is for what was installed
# without `make deploy`, which writes down which one it was.
set -eu

cd "$(dirname "$0")"
namespace=ibm-observe

refuse() {
    printf 'make undeploy: %s\n' "$1" >&2
    exit 1
}
command -v kubectl >/dev/null 2>&1 || refuse 'there is no kubectl'
answer=$(kubectl get --raw /version --request-timeout=10s 2>&1) || refuse "no cluster: $(printf '%s\n' "$answer" | tail -n 1)"
overlay=${OVERLAY:-}
if [ -z "$overlay" ]; then
    overlay=$(kubectl get daemonset coredump-handler --namespace "$namespace" --ignore-not-found \
        --output 'jsonpath={.spec.template.metadata.annotations.coredump-handler/settings}' 2>&1) ||
        refuse "what is installed cannot be looked at: $(printf '%s\n' "$overlay" | tail -n 1)"
    case $overlay in
        base.*) overlay= ;;
        *.*) overlay=${overlay%%.*} ;;
        *) overlay= ;; # by somebody else: Helm, kubectl
    esac
fi
kustomization=${overlay:+overlays/}${overlay:-base}
case $overlay in */* | .*) refuse "OVERLAY is \"$overlay\", and should be a name" ;; esac
[ -e "$kustomization/kustomization.yaml" ] ||
    refuse "there is no overlay \"$overlay\", but $(for dir in overlays/*/; do basename "$dir"; done | paste -s -d ' ' -)"
rendered=$(kubectl kustomize "$kustomization")
# Without the DaemonSet nobody knows the overlay any more.
again="make undeploy${overlay:+ OVERLAY=$overlay}"

pods() { # NAME IMAGE NODE; one that waits for a node has none
    kubectl get pods --namespace "$namespace" --selector app.kubernetes.io/name=coredump-handler \
        --output 'jsonpath={range .items[*]}{.metadata.name} {.spec.containers[0].image} {.spec.nodeName}{"\n"}{end}'
}
# Of what is installed, if that can be had: Helm, or a kustomization of somebody's own, may have others.
settings=$(kubectl get configmap coredump-handler --namespace "$namespace" --output 'jsonpath={.data.installer\.yaml}' 2>/dev/null || :
    printf '\n%s\n' "$rendered")
path() { # KEY: its value there
    printf '%s\n' "$settings" | sed -n "s/^ *$1: //p" | head -n 1
}
by_hand() { # NODE IMAGE
    printf '%s\n' "echo '{host_dir: $(path host_dir), spool_dir: $(path spool_dir)}' | kubectl debug node/$1 --namespace kube-system --stdin --profile=sysadmin --image=$2 -- installer --config /dev/stdin --host-root /host uninstall"
}

listener=
files=$(mktemp -d)
heard=$files/heard
errors=$files/errors
hush() {
    [ -n "$listener" ] || return 0
    kill "$listener" 2>/dev/null || :
    wait "$listener" 2>/dev/null || :
    listener=
}
trap 'hush; rm -rf "$files"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

before=$(pods 2>"$errors") || refuse "the pods cannot be listed: $(tail -n 1 "$errors")"
before=$(printf '%s\n' "$before" | awk 'NF == 3')
all_heard() {
    [ "$(grep -o '^\[pod/[^]]*\]' "$heard" | sort -u | wc -l)" -ge "$(printf '%s\n' "$before" | wc -l)" ]
}
if [ -n "$before" ]; then
    : >"$heard"
    kubectl logs --follow --ignore-errors --prefix --tail=1 --max-log-requests=10000 --namespace "$namespace" \
        --container installer --selector app.kubernetes.io/name=coredump-handler >"$heard" 2>"$errors" &
    listener=$!
    # A line of each pod shows that it is listened to. One that does not run has none.
    for _ in $(seq 30); do
        if all_heard || ! kill -0 "$listener" 2>/dev/null; then break; fi
        sleep 1
    done
fi
silent() { # of which nodes it was not heard that they are clean
    printf '%s\n' "$before" | {
        some=
        while read -r pod image node; do
            [ -n "$pod" ] || continue
            last=$(grep -F "[pod/$pod/installer]" "$heard" | tail -n 1 | cut -d ' ' -f 2-)
            last=${last:-$(grep -hi '^error' "$heard" "$errors" | tail -n 1)}
            case $last in *'this node is what it was before'*) continue ;; esac
            [ -n "$some" ] || echo 'Of these nodes it was not heard that they are what they were before:'
            some=yes
            printf '  %s: %s; by hand: %s\n' "$node" "${last:-nothing}" "$(by_hand "$node" "$image")"
        done
    }
}
# The DaemonSet before its account: with it the installers ask whether they are to go.
if ! kubectl delete daemonset coredump-handler --namespace "$namespace" --ignore-not-found \
    --cascade=foreground --wait --timeout="${TIMEOUT:-5m}"; then
    sleep 1
    hush
    silent >&2
    refuse "not every node is clean, and the rest of the collector is left as it is, for another $again"
fi
# The last words may still be on their way.
sleep 1
hush
unclean=$(silent)
[ -z "$unclean" ] || printf '%s\n' "$unclean" >&2
printf '%s\n' "$rendered" | awk '
    function out() { if (doc !~ /\nkind: Namespace\n/) printf "---%s", doc; doc = "\n" }
    BEGIN { doc = "\n" }
    /^---$/ { out(); next }
    { doc = doc $0 "\n" }
    END { out() }' | kubectl delete --ignore-not-found --wait --timeout="${TIMEOUT:-5m}" --filename - ||
    refuse "the rest of the collector is not removed yet; for what is left there is $again"
[ -z "$unclean" ] || refuse 'the collector is removed, but not every node is known to be clean'
if [ -z "$before" ]; then
    echo "No collector was running here, and nothing was heard of any node. The namespace $namespace is left."
else
    cat <<END
Every node that had a pod is what it was before, but for dumps that were not uploaded: they are in its spool. The namespace $namespace is
left with what else is in it.
END
fi
