#!/bin/sh
# The container image of what is in dist/, as an OCI archive and under its name. Called by `make image`, which builds what
# goes into it.
set -eu

cd "$(dirname "$0")/.."
image=$1
archive=dist/image.tar
most=$((40 * 1024 * 1024))

# The same bytes from the same binaries, whenever it is built.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

if docker info >/dev/null 2>&1; then
    docker build --quiet --file deploy/Dockerfile --target dist --build-arg VERSION="$version" --tag "$image" dist
    docker save --output "$archive" "$image"
    push="docker push $image"
elif command -v buildah >/dev/null 2>&1; then
    # Nothing runs during the build, so it takes no more than a chroot, in a container of CI as well.
    buildah build --quiet --isolation chroot --timestamp "$epoch" --file deploy/Dockerfile --target dist \
        --build-arg VERSION="$version" --tag "$image" dist
    rm -f "$archive"
    # By the name that a node's runtime makes of one without a registry.
    case $image in
        *.*/* | *:*/* | localhost/*) full=$image ;;
        */*) full=docker.io/$image ;;
        *) full=docker.io/library/$image ;;
    esac
    buildah push --quiet "$image" "oci-archive:$archive:$full"
    push="buildah push $image"
else
    echo 'make image: neither docker (with its daemon) nor buildah is there' >&2
    exit 1
fi

size=$(wc -c <"$archive")
if [ "$size" -gt "$most" ]; then
    echo "make image: $archive has $size bytes, and should have at most $most" >&2
    exit 1
fi
echo "$image is in $archive, $((size / 1024 / 1024)) MiB; to your registry with: $push"
