#!/bin/sh
# Takes a containerd away once stdin ends: what it runs, mounts and keeps.
# $1 is its directory, $2 the lock that all of them share. Fails if something
# is left.
trap '' HUP INT TERM
dir=$1 lock=$2
while read -r _; do :; done

# Processes of a name whose command line names the directory.
daemons() { # PATTERN
    grep -lsF -e "$dir/" /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ pid _; do
        read -r comm <"/proc/$pid/comm" || continue
        # It is to be a pattern.
        # shellcheck disable=SC2254
        case $comm in $1) echo "$pid" ;; esac
    done
}

# Where the pods are, in all hierarchies.
cgroups() {
    [ -f "$dir/cgroups" ] || return 0
    while read -r cgroup; do
        for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
            [ ! -d "$hierarchy$cgroup" ] || find "$hierarchy$cgroup" -depth -type d
        done
    done <"$dir/cgroups"
}

contained() {
    cgroups | while read -r cgroup; do cat "$cgroup/cgroup.procs"; done
}

# Until there are none: some may be about to start others.
end() { # COMMAND...
    for _ in $(seq 200); do
        pids=$("$@")
        [ -n "$pids" ] || return 0
        # Word splitting is what makes a list of it.
        # shellcheck disable=SC2086
        kill -KILL $pids
        sleep 0.05
    done
    return 1
}

mounts() {
    awk -v dir="$dir/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r
}

remove() {
    # The shims' sockets are the one thing that cannot be told to be elsewhere.
    # Each is named in one of these; beside them are pipes, to be left alone.
    bundles=$dir/state/io.containerd.runtime.v2.task
    grep -ohs '/run/containerd/s/[0-9a-f]*' "$bundles"/*/*/address "$bundles"/*/*/bootstrap.json | xargs -r rm -f
    # What has just died may still count as busy.
    for _ in $(seq 200); do
        mounts | xargs -r -n 1 umount --lazy
        cgroups | xargs -r rmdir
        if [ -z "$(mounts)$(cgroups)" ]; then
            # Should something still be mounted below, it is not to be emptied.
            rm -rf --one-file-system "$dir"
            return
        fi
        sleep 0.05
    done
    return 1
}

# In this order: nobody starts another, and shims bury what they have.
{ end daemons containerd && end contained && end daemons 'containerd-shim*' && end daemons 'runc*'; } 2>/dev/null
ended=$?
exec 9>>"$lock"
flock 9
remove
removed=$?
# The last one also takes what the pods of all had in common, if it was of our
# making. It fails where it is not there or not empty, and that is fine.
if [ -s "$lock" ] && ! ls -d "${dir%.*}".* >/dev/null 2>&1; then
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
        rmdir "$hierarchy/kubepods/besteffort" "$hierarchy/kubepods/burstable" "$hierarchy/kubepods"
    done 2>/dev/null
fi
[ "$ended$removed" = 00 ]
