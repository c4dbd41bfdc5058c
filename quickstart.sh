#!/usr/bin/env bash
# From a clone to a program in a container whose image was never downloaded: installs what is
# missing, builds Sway, starts both servers, exports testapps/scipy, runs its app.py.
#
#   ./quickstart.sh
#
# Sway's data lies in a temporary directory; servers and data are gone when the script ends. The
# programs stay in target/release, and what is expensive to make in /var/cache/sway-test.
set -euo pipefail
cd "$(dirname "$0")"
root=$PWD
. setup/lib.sh

step "1/5 The machine"
setup/machine.sh

step "2/5 Building Sway (a few minutes the first time)"
cargo build --release --bins -p sway-cli -p sway-fileserver -p sway-worker
sway=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)/release/sway

step "3/5 The base image of testapps/scipy"
base_file=$(mktemp)
data=$(mktemp -d /tmp/sway-quickstart.XXXXXX)
server=
clean_up() {
    trap - EXIT INT TERM
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$data" "$data.log" "$base_file"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
setup/base-image.sh >"$base_file"
mapfile -t base_arguments <"$base_file"

step "4/5 Starting Sway (sway up --data $data)"
# The usual ports, or others where those are taken.
free_port() { # PORT
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 2)); done
    echo "$port"
}
fileserver=127.0.0.1:$(free_port 8443)
worker=127.0.0.1:$(free_port 8444)
export SWAY_DATA=$data FILESERVER_URL=http://$fileserver WORKER_URL=http://$worker
"$sway" up --data "$data" --fileserver-listen "$fileserver" --worker-listen "$worker" >"$data.log" 2>&1 </dev/null &
server=$!
for _ in $(seq 150); do
    ! curl -fsS -o /dev/null "$WORKER_URL/healthz" 2>/dev/null || break
    kill -0 "$server" 2>/dev/null || { cat "$data.log" >&2; fail "sway up ended"; }
    sleep 0.2
done
say "fileserver $FILESERVER_URL, worker $WORKER_URL"

step "5/5 sway export testapps/scipy; sway run app.py"
"$sway" export testapps/scipy "${base_arguments[@]}"
cd testapps/scipy
"$sway" --verbose run --timeout 60 app.py

step "Done. To go on:"
cat >&2 <<END
  export PATH=$(dirname "$sway"):\$PATH
  sway up &                       fileserver and worker, data in /var/lib/sway
  cd $root/testapps/scipy
  sway export ${base_arguments[*]@Q}
  sway run app.py                 and again: now it is fast
  sway runs                       what ran, and what it cost
  sway --help                     the rest
END
