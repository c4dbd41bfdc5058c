#!/usr/bin/env bash
# Passes the tests: the code's own, then the whole path with the real programs, real FUSE and real
# runc. Installs what is missing first (setup/machine.sh), prints a line for each thing that it
# proves, goes on after a failure, and leaves nothing behind.
#
#   ./integration_test.sh [--skip-export] [--concurrent] [SUBJECT...]
#
#   --skip-export   use the images that the last run exported
#   --concurrent    run all test apps at once
#   SUBJECT         code, apps, image, starts, data, failures, refusals, users, requests, queue, python, page, scripts:
#                   only these (all but code, requests and queue need the images that `apps` exports)
#
# The subjects are in integration/, one file each.
set -uo pipefail
cd "$(dirname "$0")" || exit
root=$PWD
for file in setup/lib.sh integration/{lib,code,apps,image,starts,data,failures,refusals,users,requests,queue,python,page,scripts}.sh; do
    # shellcheck source=/dev/null
    . "$root/$file"
done

skip_export=false concurrent=false subjects=()
for argument in "$@"; do
    case $argument in
        --skip-export) skip_export=true ;;
        --concurrent) concurrent=true ;;
        code | apps | image | starts | data | failures | refusals | users | requests | queue | python | page | scripts) subjects+=("$argument") ;;
        *) fail "usage: $0 [--skip-export] [--concurrent] [code|apps|image|starts|data|failures|refusals|users|requests|queue|python|page|scripts]..." ;;
    esac
done
wanted() { [ ${#subjects[@]} = 0 ] || [[ " ${subjects[*]} " = *" $1 "* ]]; }
wanted apps || skip_export=true

step "Setting up"
setup/machine.sh test || exit
target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
bin=$target/release
examples=$target/debug/examples
store=$setup_cache/integration-store

work=$(mktemp -d /tmp/sway-integration.XXXXXX)
mkdir "$work/log" "$work/pid" "$work/app"
trap clean_up EXIT
trap 'exit 130' INT TERM

wanted code && check_code

step "Building the programs"
subject "The programs"
check_seconds=1800 check "they build" cargo build -q --release --bins -p sway-cli -p sway-fileserver -p sway-worker ||
    { printf '\n%d passed, %d failed\n' "$passed" "$failed"; exit 1; }
# What makes and compares difficult images. cargo's tests have built these already.
check_seconds=1800 check "the examples build" cargo build -q --workspace --examples
base_file=$work/base-arguments
setup/base-image.sh >"$base_file" || fail "there is no base image to build the test apps on"
mapfile -t base_arguments <"$base_file"

# One token for all; no settings but these.
export PATH=$bin:$PATH SWAY_USERNAME=tester SWAY_CONFIG=$work/config.toml SWAY_DATA=$work/no-data
: >"$SWAY_CONFIG"
SWAY_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
FILESERVER_URL=http://127.0.0.1:$(free_port)
WORKER_URL=http://127.0.0.1:$(free_port)
export SWAY_TOKEN FILESERVER_URL WORKER_URL
unset SWAY_LOG LOG_LEVEL SERVER_URL
[ $skip_export = true ] || rm -rf --one-file-system "$store"
mkdir -p "$store"

subject "The servers"
check "a fileserver starts" start_fileserver
wanted apps && check_apps $skip_export $concurrent
wanted image && check_image
wanted starts && check_starts
wanted data && check_data
wanted failures && check_failures
wanted refusals && check_refusals
wanted users && check_users
wanted requests && check_requests
wanted queue && check_queue
wanted python && check_python
wanted page && check_page
check "the servers stop when they are told to" stop_all
check "and leave no mount behind" expect_equal mounts "" "$(mounts_below "$work")"
wanted scripts && check_scripts

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
