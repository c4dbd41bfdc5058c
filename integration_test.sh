#!/usr/bin/env bash
# Passes the tests: the code's own, then the whole path with the real programs, real FUSE and real
# runc. Installs what is missing first (setup/machine.sh), prints a line for each thing that it
# proves, goes on after a failure, and leaves nothing behind.
#
#   ./integration_test.sh [--skip-export] [--concurrent] [--skip-code]
#
#   --skip-export   use the images that the last run exported
#   --concurrent    run all test apps at once
#   --skip-code     leave out cargo's checks and tests
#
# The subjects are in integration/, one file each.
set -uo pipefail
cd "$(dirname "$0")" || exit
root=$PWD
for file in setup/lib.sh integration/{lib,code,apps,image,failures,refusals,scripts}.sh; do
    # shellcheck source=/dev/null
    . "$root/$file"
done

skip_export=false concurrent=false skip_code=false
for argument in "$@"; do
    case $argument in
        --skip-export) skip_export=true ;;
        --concurrent) concurrent=true ;;
        --skip-code) skip_code=true ;;
        *) fail "usage: $0 [--skip-export] [--concurrent] [--skip-code]" ;;
    esac
done

step "Setting up"
setup/machine.sh test || exit
target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
bin=$target/release
store=$setup_cache/integration-store
[ $skip_export = false ] || [ -d "$store" ] || fail "nothing was exported yet: leave out --skip-export"

work=$(mktemp -d /tmp/sway-integration.XXXXXX)
mkdir "$work/log" "$work/pid" "$work/app"
trap clean_up EXIT
trap 'exit 130' INT TERM

[ $skip_code = true ] || check_code

step "Building the programs"
subject "The programs"
check_seconds=900 check "they build" cargo build -q --release -p sway-cli -p sway-fileserver -p sway-worker --bins --examples ||
    { printf '\n%d passed, %d failed\n' $passed $failed; exit 1; }
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
check_apps $skip_export $concurrent
check_image
check_failures
check_refusals
check "the servers stop when they are told to" stop_all
check "and leave no mount behind" expect_equal mounts "" "$(mounts_below "$work")"
check_scripts

printf '\n%d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
