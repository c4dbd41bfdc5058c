#!/usr/bin/env bash
# Installs what a Debian or Ubuntu machine lacks to build and run Sway; does nothing, and does
# not ask the network, where nothing is missing.
#
#   setup/machine.sh         what building and running needs
#   setup/machine.sh test    and what the integration test needs besides
#
# Leaves the Rust toolchain to the machine's owner, and the choice of an image builder: any of
# docker, podman and buildah is used as it is, buildah is installed where there is none.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
purpose=${1:-run}

[ "$(id -u)" = 0 ] || fail "root is needed: mounts, containers and cgroups are made here"
have cargo || fail "no Rust toolchain: install one from https://rustup.rs, then run this again"

missing=()
need() { # COMMAND PACKAGE...
    local command=$1
    shift
    have "$command" || missing+=("$@")
}
need cc gcc libc6-dev
need runc runc
# Process 1 of every container, and the way out of those with --network isolated.
need tini-static tini
need slirp4netns slirp4netns
need ip iproute2
need curl curl ca-certificates
need jq jq
need flock util-linux
need ps procps
if ! have docker && ! have podman; then need buildah buildah; fi
# A docker without its daemon (a bare client) builds nothing.
if have docker && ! have podman && ! timeout 5 docker info >/dev/null 2>&1; then
    need buildah buildah
fi
if [ "$purpose" = test ]; then
    need umoci umoci
    need python3 python3
    # The command python3 alone does not tell.
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    need pip3 python3-pip
    need getfattr attr
    need zstd zstd
    # What the page is looked at with.
    have chromium-browser || have google-chrome || need chromium chromium
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi

if [ ${#missing[@]} -gt 0 ]; then
    have apt-get || fail "missing packages: ${missing[*]} (no apt-get here: install them, then run this again)"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    { apt-get update -q && apt-get install -qy --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null ||
        { tail -20 "$log" >&2; fail "apt-get could not install ${missing[*]}"; }
else
    say "nothing to install"
fi

if [ ! -c /dev/fuse ] && ! { have modprobe && modprobe fuse && [ -c /dev/fuse ]; }; then
    fail "/dev/fuse is missing: this kernel has no FUSE, or the machine is a container without the device"
fi

if [ "$purpose" = test ]; then
    for component in rustfmt clippy; do
        "cargo-${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
        have rustup || fail "cargo has no $component here"
        rustup component add "$component" >&2
    done
    if ! have cargo-deny; then
        say "installing cargo-deny (about two minutes)"
        cargo install --quiet --locked cargo-deny >&2
    fi
    if [ ! -x "$schemathesis" ]; then
        say "installing schemathesis $schemathesis_version"
        environment=${schemathesis%/bin/*}
        rm -rf "$environment"
        mkdir -p "${environment%/*}"
        python3 -m venv "$environment" >&2
        "$environment/bin/pip" install -q --disable-pip-version-check "schemathesis==$schemathesis_version" >&2 ||
            { rm -rf "$environment"; fail "pip could not install schemathesis $schemathesis_version"; }
    fi
fi
