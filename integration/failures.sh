# What happens when something dies, stops answering, or lies.

check_failures() {
    subject "Failures"
    check "a worker is killed during jobs" worker_is_killed
    check "started again, it leaves no stale mount, process or cgroup" nothing_is_left
    check "the interrupted runs are on record with cause infrastructure" interrupted_runs_are_on_record
    check "and the next job works" scipy_works
    check "a fileserver killed during an export keeps the old image; exporting again completes" export_is_interrupted
    check "with the fileserver gone cached reads go on, others end in EIO, and a new job works after its return" outage
    check "the outage's run names the path that could not be read" outage_names_the_path
    check "a flipped byte in the worker's disk cache never reaches a job" disk_cache_is_corrupt
    check "a flipped byte in the fileserver's store never reaches a job" store_is_corrupt
    check "a user who goes away takes the job along" client_goes_away
}

scipy_works() { run_and_judge scipy; }

# --- a killed worker ---------------------------------------------------------------------------

# Names that no other process on the machine has.
orphan_marker=sway-integration-orphan-$$

job_cgroups() { find /sys/fs/cgroup -type d -path '*/sway/*/run-*' 2>/dev/null | sort; }
processes_of_jobs() { pgrep -f "$orphan_marker" || true; }
runs_of() { # USER CAUSE: how many
    SWAY_USERNAME=$1 sway runs --json --limit 100 | jq "[.[] | select(.username == \"$1\" and .cause == $2)] | length"
}

worker_is_killed() {
    local number
    job_cgroups >"$work/cgroups-before"
    fresh_worker worker-killed
    cat >"$work/$orphan_marker.py" <<'END'
import os
import time

os.fork()
print("running", flush=True)
while True:
    for directory, _, files in os.walk("/usr/lib/python3"):
        for name in files[:20]:
            with open(os.path.join(directory, name), "rb") as file:
                file.read()
    time.sleep(0.01)
END
    for number in 1 2; do
        SWAY_USERNAME=interrupted sway run --detach --image tester/numpy --timeout 300 "$work/$orphan_marker.py"
    done
    wait_until 30 eval '[ "$(runs_of interrupted null)" = 2 ]'
    wait_until 30 eval '[ "$(processes_of_jobs | wc -l)" -ge 4 ]'
    # A container that was made ahead and not used may still be on its way out.
    wait_until 30 eval '[ "$(running_cgroups)" = 2 ]'
    stop worker-killed KILL
}

running_cgroups() {
    job_cgroups | comm -13 "$work/cgroups-before" - | grep -oE 'run-[^/]+$' | sort -u | wc -l
}

nothing_is_left() {
    start_worker worker-killed
    wait_until 20 eval '[ -z "$(processes_of_jobs)" ]'
    expect_equal "mounts" "" "$(mounts_below "$work/worker-killed")"
    expect_equal "cgroups" "" "$(job_cgroups | comm -13 "$work/cgroups-before" -)"
    expect_equal "containers" "" "$(find "$work/worker-killed/runc" -mindepth 1 2>/dev/null)"
}

interrupted_runs_are_on_record() {
    expect_equal "runs" 2 "$(runs_of interrupted '"infrastructure"')"
    expect_equal "runs without an end" 0 "$(runs_of interrupted null)"
}

# --- a killed fileserver -----------------------------------------------------------------------

export_is_interrupted() {
    local data=$work/store-killed status=0 export_pid
    python3 "$root/integration/make_image.py" "$work/image-old" --seed old --files 3 --size 100000
    python3 "$root/integration/make_image.py" "$work/image-new" --seed new --files 1500 --size 200000
    stop_workers
    stop fileserver
    start_fileserver fileserver-killed "$data"
    sway export --from "oci:$work/image-old" --name changing
    sway export --from "oci:$work/image-new" --name changing >"$work/interrupted.log" 2>&1 &
    export_pid=$!
    # As soon as the first of its blobs are stored.
    wait_until 30 eval '[ "$(find "$data" -type f | wc -l)" -gt 40 ]'
    stop fileserver-killed KILL
    wait $export_pid || status=$?
    cat "$work/interrupted.log"
    [ $status != 0 ] || { echo "the export ended before its server was killed"; return 1; }

    start_fileserver fileserver-killed "$data"
    mount_image changing "$work/changing"
    expect_equal "what the name leads to" old "$(cat "$work/changing/seed")"
    stop mount INT
    sway export --from "oci:$work/image-new" --name changing
    mount_image changing "$work/changing"
    expect_equal "what the name leads to" new "$(cat "$work/changing/seed")"
    expect_equal "a file of it" "$(python3 -c 'import hashlib; print(hashlib.sha1(hashlib.shake_128(b"new 1499").digest(200000)).hexdigest())')" \
        "$(sha1sum "$work/changing/file-1499" | cut -d ' ' -f 1)"
    stop mount INT
    stop fileserver-killed
    rm -rf "$data" "$work/image-new" "$work/image-old"
    start_fileserver
}

# --- a fileserver that is gone for a while -----------------------------------------------------

outage() {
    local pid code=0
    # Python reads of itself, too, when it fails: two deadlines one after the other.
    fresh_worker worker-outage "${on_demand[@]}" --read-deadline 10
    cat >"$work/outage.py" <<'END'
import errno
import sys
import time

CACHED, UNCACHED = "/files/30/06000", "/files/30/06001"


def read(path):
    with open(path, "rb", buffering=0) as file:
        return file.readline().decode().strip()


before = read(CACHED)
print("ready", flush=True)
sys.stdin.readline()
print("cached:", read(CACHED) == before, flush=True)
started = time.monotonic()
try:
    print("uncached:", read(UNCACHED))
except OSError as error:
    print("uncached:", errno.errorcode[error.errno], "in time" if time.monotonic() - started < 40 else "too late")
END
    mkfifo "$work/outage.in"
    sway run --image many-small-files --timeout 90 "$work/outage.py" \
        <"$work/outage.in" >"$work/outage.out" 2>"$work/outage.err" &
    pid=$!
    exec 7>"$work/outage.in"
    wait_until 30 grep -q ready "$work/outage.out" || { cat "$work/outage.err"; return 1; }
    stop fileserver
    echo go >&7
    exec 7>&-
    wait $pid || code=$?
    cat "$work/outage.out" "$work/outage.err"
    last_run tester >"$work/outage.json"
    expect_equal "exit code" 0 $code
    expect_match "output" '^cached: True$' "$work/outage.out"
    expect_match "output" '^uncached: EIO in time$' "$work/outage.out"

    start_fileserver
    echo 'print(open("/files/30/06001").readline().strip())' >"$work/after.py"
    expect_equal "a read after its return" "file 6001" "$(sway run --image many-small-files --timeout 60 "$work/after.py")"
}

outage_names_the_path() {
    jq 'del(.limits)' "$work/outage.json"
    jq -e '[.stderr, .message] | map(. // "") | any(contains("/files/30/06001"))' "$work/outage.json"
}

# --- bytes that changed ------------------------------------------------------------------------

flip_byte() { # FILE...: the one in the middle of each
    python3 - "$@" <<'END'
import os, sys
for path in sys.argv[1:]:
    with open(path, "r+b") as file:
        middle = os.fstat(file.fileno()).st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 0x10]))
END
}

disk_cache_is_corrupt() {
    local files trace least
    # What is read on demand lies chunk by chunk in the cache; what a trace brings, in one file.
    for trace in off:20 push:1; do
        least=${trace#*:} trace=${trace%:*}
        fresh_worker worker-flipped --trace "$trace"
        scipy_works
        stop_workers
        mapfile -t files < <(find "$work/worker-flipped/cache" -type f -size +64c)
        flip_byte "${files[@]}"
        echo "${#files[@]} files flipped, trace $trace"
        [ ${#files[@]} -ge "$least" ]
        # The kernel must ask again, too.
        sync && echo 3 >/proc/sys/vm/drop_caches
        start_worker worker-flipped --trace "$trace"
        scipy_works
    done
}

# A small file is one blob, stored under the SHA-1 of its content.
store_is_corrupt() {
    local digest
    python3 -c 'print("file 6102\n" * (1 + 6102 % 32), end="")' >"$work/blob"
    digest=$(sha1sum <"$work/blob" | cut -d " " -f 1)
    fresh_worker worker-lied-to
    cat >"$work/lied.py" <<'END'
import errno

try:
    with open("/files/30/06102", "rb", buffering=0) as file:
        print("right" if file.read() == b"file 6102\n" * 23 else "wrong")
except OSError as error:
    print(errno.errorcode[error.errno])
END
    python3 "$root/integration/stored.py" "$store" flip "$digest"
    sway run --image many-small-files --timeout 60 "$work/lied.py" >"$work/lied.out" || true
    expect_equal "what the job saw" EIO "$(cat "$work/lied.out")"
    request PUT "$FILESERVER_URL/v1/blobs/$digest" --data-binary @"$work/blob" \
        -H "Content-Type: application/octet-stream"
    expect_equal "what it sees after repair" right "$(sway run --image many-small-files --timeout 60 "$work/lied.py")"
}

# --- a client that is gone ---------------------------------------------------------------------

client_goes_away() {
    local pid
    fresh_worker worker-left
    printf 'import time\nprint("here", flush=True)\ntime.sleep(120)\n' >"$work/left.py"
    SWAY_USERNAME=leaver sway run --image tester/numpy --timeout 120 "$work/left.py" >"$work/left.out" 2>/dev/null &
    pid=$!
    wait_until 30 grep -q here "$work/left.out"
    kill -KILL $pid
    wait_until 20 eval '[ "$(runs_of leaver null)" = 0 ]'
    expect_equal "cause" cancelled "$(last_run leaver cause)"
}
