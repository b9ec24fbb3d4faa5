#!/bin/sh
# One real crash becomes one verified object, on this machine, and afterwards
# the machine is what it was. Called by `make demo`, which builds what it runs.
set -eu

cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo 'make demo: has to be run as root, because it sets kernel.core_pattern (and puts it back)' >&2
    exit 1
fi
[ "${1-}" = --check ] && exit 0

bin=${CARGO_TARGET_DIR:-target}/debug
pattern=/proc/sys/kernel/core_pattern
base=
installed=
store=
uploader=

finish() {
    status=$?
    trap '' HUP INT QUIT PIPE TERM
    set +e
    # shellcheck disable=SC2086
    [ -z "$uploader$store" ] || kill $uploader $store 2>/dev/null
    # shellcheck disable=SC2086
    [ -z "$uploader$store" ] || wait $uploader $store 2>/dev/null
    [ -n "$base" ] || exit $status
    if [ -n "$installed" ] && ! dist/installer --config "$base/installer.yaml" uninstall >"$base/uninstall.log" 2>&1; then
        cat "$base/uninstall.log" >&2
        keep "the host could not be given back what it had; mend that and run: \
dist/installer --config $base/installer.yaml uninstall"
    elif [ "$(cat $pattern)" != "$before" ]; then
        keep "kernel.core_pattern is $(cat $pattern) and was $before: somebody else has set it meanwhile"
    elif [ -n "$(others)" ]; then
        keep "something else crashed meanwhile; what there is of it: $(others)"
    else
        rm -rf "$base"
        say "the host is as it was: kernel.core_pattern = $before"
    fi
    exit $status
}
keep() { # WHY
    echo "$1" >&2
    status=1
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 131' QUIT
trap 'exit 141' PIPE
trap 'exit 143' TERM

# A second demo would take the first one's settings for the host's own.
exec 9</opt
if ! flock -n 9; then
    echo 'another demo is running' >&2
    exit 1
fi
before=$(cat $pattern)
# Below /opt, since the kernel has to execute the composer there and /tmp is
# often mounted noexec; short, since core_pattern has 127 bytes.
base=$(mktemp -d /opt/coredump-demo.XXXXXX)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

wait_for() { # WHAT COMMAND...
    what=$1
    shift
    for _ in $(seq 300); do
        if "$@"; then return; fi
        alive $store || { cat "$base/store.log" >&2; echo "the store has died" >&2; exit 1; }
        sleep 0.1
    done
    echo "no $what within 30 seconds" >&2
    exit 1
}
alive() { # PID; one that nobody has waited for yet is a Z
    case $(cut -d ' ' -f 3 "/proc/$1/stat" 2>/dev/null) in '' | Z) return 1 ;; esac
}
others() {
    [ -d "$base/spool" ] || return 0
    # The crasher's composer may not be done with it.
    for _ in $(seq 50); do
        [ -n "$(find "$base/spool" -name '*.part')" ] || break
        sleep 0.1
    done
    find "$base/spool" -type f ! -name 'crashes.jsonl' ! -name 'uploader.json' ! -name '*_crasher_SIGSEGV.zip'
}
ready() { [ -n "$(find "$base/spool" -name '*_crasher_SIGSEGV.zip')" ]; }
shipped() { [ -n "$(find "$base/store/dumps" -name "$id.zip")" ] && [ ! -e "$base/spool/$dump" ]; }

say "a store, in $base/store"
"$bin/dev-store" --dir "$base/store" --bucket dumps --ready-file "$base/endpoint" >"$base/store.log" 2>&1 &
store=$!
wait_for "store" test -s "$base/endpoint"

cat >"$base/installer.yaml" <<END
host_dir: $base/host
spool_dir: $base/spool
composer: {keep_free: 64MiB}
END
cat >"$base/uploader.yaml" <<END
spool_dir: $base/spool
store:
  s3:
    bucket: dumps
    endpoint: $(cat "$base/endpoint")
    path_style: true
END

say "the kernel hands crashes to the composer"
installed=yes
dist/installer --config "$base/installer.yaml" install
dist/installer --config "$base/installer.yaml" status

say "a process crashes"
"$bin/crasher" --heap-mb 5 --signal SEGV >/dev/null || true
wait_for "dump" ready

say "its dump is in the spool"
dist/uploader --spool "$base/spool" ls
dump=$(cd "$base/spool" && echo *_crasher_SIGSEGV.zip)
id=${dump%%_*}
if command -v unzip >/dev/null 2>&1; then unzip -l "$base/spool/$dump"; fi
dist/uploader --spool "$base/spool" show "$id"

say "the uploader ships it"
AWS_ACCESS_KEY_ID=testbed AWS_SECRET_ACCESS_KEY=testbed-secret \
    dist/uploader --config "$base/uploader.yaml" run &
uploader=$!
wait_for "object" shipped

say "the object is in the store, its size and checksum confirmed, and the spool is empty"
object=$(find "$base/store/dumps" -name "$id.zip")
ls -l "$object"
if command -v unzip >/dev/null 2>&1; then unzip -tq "$object"; fi
# An object has the name of a ready dump, so its directory can be looked at.
dist/uploader --spool "$(dirname "$object")" show --json "$id"
