#!/usr/bin/env bash
# Builds the benchmark's images once per machine, and prints the directory that holds them.
#
# In it, for each image: `oci` (an OCI layout) and, where a program runs natively too, `rootfs`
# (the same image, unpacked). Kept in $SWAY_SETUP_CACHE; an image whose recipe changed is built
# again.
#
#   bench/images/build.sh             all of them
#   bench/images/build.sh scipy       some
set -euo pipefail
cd "$(dirname "$0")/../.."
. setup/lib.sh

readonly images=$setup_cache/bench
readonly wanted=("${@:-all}")

want() { # NAME
    [[ " ${wanted[*]} " == *" all "* || " ${wanted[*]} " == *" $1 "* ]]
}

# The arguments of `sway export`, turned into buildah's own.
builder_arguments() {
    local arguments at
    mapfile -t arguments < <(SWAY_BUILDER=buildah setup/base-image.sh)
    for ((at = 0; at < ${#arguments[@]}; at++)); do
        case ${arguments[at]} in
            --builder) at=$((at + 1)) ;;
            --builder-arg=*) build+=("${arguments[at]#--builder-arg=}") ;;
            *) build+=("${arguments[at]}") ;;
        esac
    done
}

# Whether an image is wanted, and is not there by this recipe.
lacks() { # NAME RECIPE
    want "$1" && [ "$(cat "$images/$1/recipe" 2>/dev/null)" != "$2" ] || return 1
    say "building $1"
    rm -rf "${images:?}/$1"
    mkdir -p "$images/$1"
}

# make NAME CONTEXT UNPACK [BASE]
make() {
    local name=$1 context=$2 unpack=$3 base=${4:-} tag=localhost/sway-bench-$1 recipe
    recipe=$(find "$context" -maxdepth 1 -type f | sort | xargs cat | sha1sum)
    lacks "$name" "$recipe" || return 0
    buildah bud --quiet "${build[@]}" ${base:+--build-arg "BASE=$base"} --tag "$tag" "$context" >&2
    buildah push --quiet "$tag" "oci:$images/$name/oci:latest" >&2
    if [ "$unpack" = unpack ]; then
        umoci unpack --image "$images/$name/oci:latest" "$images/$name/unpacked" >&2
        mv "$images/$name/unpacked/rootfs" "$images/$name/rootfs"
        rm -rf "$images/$name/unpacked"
    fi
    printf '%s' "$recipe" >"$images/$name/recipe"
}

# A team's image with a program of its own in the last layer, in two versions.
make_changing() { # NAME LINE
    want "$1" || return 0
    local context
    context=$(mktemp -d)
    printf 'ARG BASE\nFROM ${BASE}\nCOPY app.py /app/app.py\n' >"$context/Dockerfile"
    { cat bench/images/scipy/app.py; printf '%s\n' "$2"; } >"$context/app.py"
    make "$1" "$context" packed localhost/sway-bench-scipy
    cp "$context/app.py" "$images/$1/app.py"
    rm -rf "$context"
}

# The same image as one single layer.
make_big() { # NAME FROM
    local container recipe
    want "$1" || return 0
    recipe=$(cat "$images/$2/recipe")
    lacks "$1" "$recipe" || return 0
    container=$(buildah from "oci:$images/$2/oci:latest")
    buildah commit --quiet --squash --rm "$container" "oci:$images/$1/oci:latest" >&2
    printf '%s' "$recipe" >"$images/$1/recipe"
}

build=()
mkdir -p "$images"
builder_arguments
make scipy testapps/scipy unpack
make science bench/images/science unpack localhost/sway-bench-scipy
make_changing changing-1 'print("version 1")'
make_changing changing-2 'print("version 2")'
make_big big-1 changing-1
make_big big-2 changing-2
echo "$images"
