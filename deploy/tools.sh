#!/bin/sh
# Installs what building (`tools.sh build`), or the tests as well, need of the
# system where it can, or names it.
set -eu

missing=
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
# ISA-L, which compresses, has a build in C and assembler.
need autoconf autoconf
need automake automake
need cc gcc
need libtoolize libtool
need make make
need nasm nasm
if [ "${1:-}" != build ]; then
    need 7z p7zip-full      # opens dumps
    need bsdtar libarchive-tools # opens dumps
    need containerd containerd # the runtime of the tests' pods
    need curl curl          # asks the store of the tests questions that no client of ours would
    need gdb gdb            # opens a core the way its reader will
    need ip iproute2        # a network without anybody else
    need jq jq              # deploy/install-cos.sh reads with it
    need kubectl kubernetes-client # has kustomize in it
    need mkfs.btrfs btrfs-progs # a disk with a quota that binds root
    need mkfs.ext4 e2fsprogs # disks that fail
    need mkfs.xfs xfsprogs  # another, that stops
    need pkill procps        # lets the store of the demo die
    need python3 python3     # opens dumps
    need runc runc
    need shellcheck shellcheck
    need strace strace      # kills the installer at each of its system calls
    need unzip unzip        # opens a dump the way its reader will
    docker info >/dev/null 2>&1 || need buildah buildah # makes the image
    python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
fi

if [ -z "$missing" ]; then
    :
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    # A mirror may fail once, and somebody else be installing.
    patient='-o Acquire::Retries=5 -o DPkg::Lock::Timeout=300'
    # Word splitting is what makes lists of them.
    # shellcheck disable=SC2086
    apt-get $patient update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get $patient install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "these packages are needed, and only root with apt-get could install them:$missing" >&2
    exit 1
fi

if [ "${1:-}" != build ] && ! kubectl kustomize deploy/base >/dev/null 2>&1; then
    echo 'kubectl is too old for deploy/base, or broken: kubectl kustomize deploy/base; 1.27 is new enough' >&2
    exit 1
fi
