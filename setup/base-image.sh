#!/usr/bin/env bash
# Finds the base image of the test apps' Dockerfiles, and prints the arguments of `sway export`
# that build with it, one per line.
#
# Where a container registry can be reached that is python:3.11-slim, pulled. Where not, Debian
# 12's own Python 3.11 is put into an image by debootstrap, once per machine: the tree is kept as
# a tar file in $SWAY_SETUP_CACHE (default /var/cache/sway-test), written under another name and
# renamed when whole. Says on stderr which of the two it was.
#
# Environment: SWAY_BUILDER (docker, podman or buildah), SWAY_BASE_IMAGE=local (skip the
# registry), SWAY_DEBIAN_MIRROR.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

readonly published=docker.io/library/python:3.11-slim
# The recipe's version: raised when make_tree changes, so that old ones are not taken for it.
readonly recipe=1
readonly local_name=localhost/sway-python:3.11-r$recipe

builder() {
    if [ -n "${SWAY_BUILDER:-}" ]; then
        echo "$SWAY_BUILDER"
    elif have docker && timeout 5 docker info >/dev/null 2>&1; then
        echo docker
    elif have podman; then
        echo podman
    elif have buildah; then
        echo buildah
    else
        fail "no docker, podman or buildah here (setup/machine.sh installs buildah)"
    fi
}

has_image() { # NAME
    case $builder in
        docker) docker image inspect "$1" ;;
        podman) podman image exists "$1" ;;
        buildah) buildah inspect --type image "$1" ;;
    esac >/dev/null 2>&1
}

pull() {
    has_image "$published" && return
    [ "${SWAY_BASE_IMAGE:-}" != local ] &&
        timeout 300 "$builder" pull "$published" >/dev/null 2>&1
}

make_tree() { # TARFILE
    local work
    have debootstrap && [ -f /usr/share/keyrings/debian-archive-keyring.gpg ] || {
        say "installing debootstrap"
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy \
            --no-install-recommends debootstrap debian-archive-keyring; } >/dev/null 2>&1 </dev/null ||
            fail "apt-get could not install debootstrap"
    }
    work=$(mktemp -d "$setup_cache/making.XXXXXX")
    debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        bookworm "$work/tree" ${SWAY_DEBIAN_MIRROR:+"$SWAY_DEBIAN_MIRROR"} \
        >"$work/log" 2>&1 </dev/null || { tail -20 "$work/log" >&2; fail "debootstrap failed"; }
    # As python:3.11-slim has it: `python` is Python, and pip installs into the system.
    ln -s python3 "$work/tree/usr/bin/python"
    rm -f "$work/tree/usr/lib/python3.11/EXTERNALLY-MANAGED"
    rm -rf "$work"/tree/var/cache/apt/* "$work"/tree/var/lib/apt/lists/* "$work"/tree/var/log/*
    # The machine's own name and resolver are no part of an image.
    rm -f "$work/tree/etc/resolv.conf" "$work/tree/etc/hostname"
    tar -C "$work/tree" --xattrs --numeric-owner --one-file-system -cf "$work/tree.tar" .
    mv "$work/tree.tar" "$1"
    rm -rf "$work"
}

import() { # TARFILE
    case $builder in
        docker | podman)
            "$builder" import --change 'CMD ["python3"]' --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' "$1" "$local_name"
            ;;
        buildah)
            local container
            container=$(buildah from scratch)
            buildah add --quiet "$container" "$1" /
            buildah config --cmd python3 --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
            buildah commit --quiet --rm "$container" "$local_name"
            ;;
    esac >/dev/null
}

make_local() {
    local tarfile=$setup_cache/python-3.11-bookworm-r$recipe.tar
    mkdir -p "$setup_cache"
    # Two scripts at once make it once.
    exec 9>"$setup_cache/lock"
    flock 9
    # What an interrupted one left behind: nobody else holds the lock.
    rm -rf "$setup_cache"/making.*
    if [ ! -f "$tarfile" ]; then
        say "making a base image with debootstrap (about a minute; kept in $setup_cache)"
        make_tree "$tarfile"
    fi
    has_image "$local_name" || import "$tarfile"
    exec 9>&-
}

# The index that the machine's own pip is told to use holds for pip inside a build as well.
pip_settings() {
    local name value
    for name in index-url extra-index-url trusted-host timeout; do
        value=PIP_$(tr 'a-z-' 'A-Z_' <<<"$name")
        [ -n "${!value:-}" ] && printf '%s = %s\n' "$name" "${!value}"
    done
    return 0
}

build_arguments() {
    printf '%s\n' --builder "$builder" --build-arg "BASE=$base"
    case $builder in
        docker) printf '%s\n' --builder-arg=--network=host ;;
        podman | buildah)
            # Builds resolve and trust what the machine does, without a daemon or a network of
            # their own.
            local file
            [ "$builder" = podman ] || printf '%s\n' --builder-arg=--isolation=chroot
            printf '%s\n' --builder-arg=--network=host
            for file in /etc/ssl/certs/ca-certificates.crt /etc/hosts; do
                [ ! -f "$file" ] || printf '%s\n' "--builder-arg=--volume=$file:$file:ro"
            done
            if [ -n "$(pip_settings)" ]; then
                mkdir -p "$setup_cache"
                { echo '[global]'; pip_settings; } >"$setup_cache/pip.conf"
                printf '%s\n' "--builder-arg=--volume=$setup_cache/pip.conf:/etc/pip.conf:ro"
            elif [ -f /etc/pip.conf ]; then
                printf '%s\n' "--builder-arg=--volume=/etc/pip.conf:/etc/pip.conf:ro"
            fi
            ;;
    esac
}

builder=$(builder)
if pull; then
    base=$published
    say "base image: $published, from the registry (builder: $builder)"
else
    make_local
    base=$local_name
    say "base image: $local_name, made with debootstrap since no registry can be reached (builder: $builder)"
fi
build_arguments
