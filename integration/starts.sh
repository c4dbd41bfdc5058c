# How a program starts in an image that the worker has never seen: from a start trace, from the
# traces of other images, from a worker's own disk; and what happens when any of that is wrong.

check_starts() {
    subject "Cold starts"
    check "an export records a start trace" export_records_a_trace
    check "a worker that has never seen the image starts from the trace" cold_start_uses_the_trace
    check "a hot run sends no message to the filesystem" hot_run_is_silent
    check "a worker that is started again starts from its own disk" restarted_worker_uses_its_disk
    check "an image that is exported again with a changed file inherits the trace" changed_image_inherits
    check "an image under another name starts from what is known of the files it shares" other_image_shares
    check "a program that the trace does not fit runs as well" wrong_trace_is_no_fault
    check "flipped bytes in a trace's frames never reach a job" frames_are_corrupt
    check "a fileserver that dies in mid-stream: EIO with a reason, and a new job works" origin_dies_in_midstream
    check "trees are the same with a trace pushed" pushed_tree_is_the_same
}

# A trace, and an image with a command of its own: what `sway run app.py` of testapps/scipy touches.
linalg_script() {
    mkdir -p "$work/starts"
    cat >"$work/starts/linalg.py" <<'END'
import numpy as np
from scipy import linalg

a = np.ones((100, 100)) + np.diag(np.arange(100))
u, s, vh = linalg.svd(a)
print(f"svd: u={u.shape}, s={s.shape}")
END
}

readonly starts_output="svd: u=(100, 100), s=(100,)"

# The trace refs of an image.
traces_of() { # IMAGE
    local manifest
    manifest=$(sway images --json | jq -r --arg name "tester/$1:latest" '.[] | select((.name | tostring) == $name or (.name | tostring) == ($name | ltrimstr("tester/"))) | .manifest' | head -1)
    request GET "$FILESERVER_URL/v1/refs?prefix=traces/" | grep -o "traces/[^\"]*$manifest/[^\"]*"
}

# Traces of an earlier run of this test prove nothing.
forget_traces() {
    local trace
    request GET "$FILESERVER_URL/v1/refs?prefix=traces/" | grep -o 'traces/[^"]*' | while read -r trace; do
        # Names of users are percent-encoded in refs already.
        request DELETE "$FILESERVER_URL/v1/refs/${trace//%/%25}" >/dev/null
    done || true
    expect_equal "traces left" "" "$(request GET "$FILESERVER_URL/v1/refs?prefix=traces/" | grep -o 'traces/[^"]*' || true)"
}

trace_exists() { traces_of "$1" | grep -q "/$2\$"; } # IMAGE KEY

run_linalg() { # IMAGE
    expect_equal "output" "$starts_output" \
        "$(sway run --image "$1" --timeout 60 --cpus 2 --memory 1G "$work/starts/linalg.py")"
}

export_records_a_trace() {
    linalg_script
    forget_traces
    fresh_worker worker-starts --pool off
    # The command names a script of the folder that the image lacks: it is sent along.
    cp "$root/testapps/scipy/Dockerfile" "$root/testapps/scipy/requirements.txt" "$work/starts/"
    sway export "$work/starts" --name starts --trace 'python3 linalg.py' "${base_arguments[@]}"
    wait_until 120 trace_exists starts linalg.py || { traces_of starts; tail -20 "$work/log/worker-starts"; return 1; }
}

cold_start_uses_the_trace() {
    fresh_worker worker-starts --pool off
    drop_page_cache
    run_linalg starts
    last_run tester >"$work/starts/cold.json"
    jq -c '{trace, trace_pushed_bytes, trace_used_bytes, trace_missed_bytes, server_fetches, bytes_fetched}' "$work/starts/cold.json"
    expect_equal "how it started" pushed "$(jq -r .trace "$work/starts/cold.json")"
    expect_at_most "bytes on the wire" 20000000 "$(jq .bytes_fetched "$work/starts/cold.json")"
    expect_at_most "bytes that the trace lacked" 2000000 "$(jq .trace_missed_bytes "$work/starts/cold.json")"
}

drop_page_cache() { sync && echo 3 >/proc/sys/vm/drop_caches; }

fuse_requests() {
    request GET "$WORKER_URL/metrics" | grep '^sway_fuse_requests_total' | grep -v 'op="\(forget\|batch_forget\)"' | sort || true
}

# A machine that is short of memory drops pages between two runs, so one silent run of four is enough.
hot_run_is_silent() {
    local try
    run_linalg starts
    for try in 1 2 3 4; do
        fuse_requests >"$work/starts/before"
        [ -s "$work/starts/before" ] || { echo "the worker counts no requests"; return 1; }
        run_linalg starts
        fuse_requests >"$work/starts/after"
        diff "$work/starts/before" "$work/starts/after" >"$work/starts/difference" && return
        echo "run $try:"
        cat "$work/starts/difference"
    done
    return 1
}

# A run that touched more than the last one has the trace grow: the next start goes by what is on disk
# and fetches what is new beside it, for the one after. One of four finds all there.
restarted_worker_uses_its_disk() {
    local fetched
    for _ in 1 2 3 4; do
        # The start file is written beside the run.
        sleep 1
        stop_workers
        drop_page_cache
        start_worker worker-starts --pool off
        run_linalg starts
        last_run tester >"$work/starts/restarted.json"
        jq -c '{trace, trace_pushed_bytes, trace_missed_bytes, server_fetches, bytes_fetched}' "$work/starts/restarted.json"
        expect_equal "how it started" pushed "$(jq -r .trace "$work/starts/restarted.json")"
        fetched=$(jq .bytes_fetched "$work/starts/restarted.json")
        [ "$fetched" -gt 1000000 ] || return 0
    done
    expect_at_most "bytes on the wire" 1000000 "$fetched"
}

changed_image_inherits() {
    fresh_worker worker-starts --pool off
    # This worker knows nothing: the trace is on the fileserver, under the image's earlier manifest.
    echo "a = 1" >"$work/starts/added.py"
    printf 'COPY added.py /opt/added.py\n' >>"$work/starts/Dockerfile"
    traces_of starts >"$work/starts/traces-before"
    sway export "$work/starts" --name starts "${base_arguments[@]}"
    wait_until 60 trace_exists starts linalg.py || { cat "$work/starts/traces-before"; tail -20 "$work/log/worker-starts"; return 1; }
    fresh_worker worker-starts --pool off
    drop_page_cache
    run_linalg starts
    expect_equal "how it started" pushed "$(last_run tester trace)"
    expect_at_most "bytes that the trace lacked" 2000000 "$(last_run tester trace_missed_bytes)"
}

other_image_shares() {
    printf 'RUN touch /opt/other\n' >>"$work/starts/Dockerfile"
    sway export "$work/starts" --name starts-other --no-trace "${base_arguments[@]}"
    # This worker ran the other image; of this one nothing is known.
    drop_page_cache
    run_linalg starts-other
    expect_equal "how it started" pushed "$(last_run tester trace)"
    expect_at_most "bytes that the trace lacked" 2000000 "$(last_run tester trace_missed_bytes)"
}

wrong_trace_is_no_fault() {
    local out
    fresh_worker worker-starts --pool off
    mkdir -p "$work/starts/other"
    # The name of the entry that has the trace, and another program.
    printf 'import decimal, json, sqlite3\nprint(decimal.Decimal(1) / 3)\n' >"$work/starts/other/linalg.py"
    out=$(sway run --image starts --timeout 60 "$work/starts/other/linalg.py")
    expect_equal "output" 0.3333333333333333333333333333 "$out"
}

# Every frame of a trace in the store is lied about, one byte each.
frames_are_corrupt() {
    local flipped
    # A trace may be on its way there from the last run.
    stop_workers
    stop fileserver
    cp -rp "$store" "$work/store-corrupt"
    flipped=$(python3 "$root/integration/stored.py" "$work/store-corrupt" flip-frames)
    echo "$flipped frames flipped"
    [ "$flipped" -gt 10 ]
    start_fileserver fileserver-corrupt "$work/store-corrupt"
    fresh_worker worker-starts --pool off
    drop_page_cache
    run_linalg starts
    last_run tester >"$work/starts/corrupt.json"
    jq -c '{trace, trace_pushed_bytes, trace_missed_bytes, message}' "$work/starts/corrupt.json"
    stop_workers
    stop fileserver-corrupt
    rm -rf "$work/store-corrupt"
    start_fileserver
}

origin_dies_in_midstream() {
    local pid code=0
    stop fileserver-corrupt
    is_running fileserver || start_fileserver
    fresh_worker worker-starts --pool off --read-deadline 5
    drop_page_cache
    # Dies when the first bytes have come.
    sway run --image starts --timeout 60 --cpus 2 --memory 1G "$work/starts/linalg.py" \
        >"$work/starts/dies.out" 2>"$work/starts/dies.err" &
    pid=$!
    wait_until 20 eval '[ "$(find "$work/worker-starts/cache" -type f -size +1k | wc -l)" -gt 1 ]' || true
    stop fileserver KILL
    wait $pid || code=$?
    tail -3 "$work/starts/dies.err"
    # It had come far enough, or it failed with a reason.
    [ $code = 0 ] || last_run tester message | grep -qE 'read of /|manifest'
    start_fileserver
    run_linalg starts
}

pushed_tree_is_the_same() {
    is_running fileserver || start_fileserver
    cat >"$work/starts/hash.py" <<'END'
import hashlib, os
import numpy, scipy.linalg

total = hashlib.sha256()
for module in (numpy, scipy):
    for directory, folders, files in sorted(os.walk(os.path.dirname(module.__file__))):
        for name in sorted(files):
            path = os.path.join(directory, name)
            total.update(path.encode())
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
print(total.hexdigest())
END
    fresh_worker worker-starts --pool off
    drop_page_cache
    run_linalg starts
    expect_equal "how it started" pushed "$(last_run tester trace)"
    sway run --image starts --timeout 120 --cpus 2 --memory 1G "$work/starts/hash.py" >"$work/starts/hash-pushed"
    fresh_worker worker-starts --pool off --trace off
    sway run --image starts --timeout 120 --cpus 2 --memory 1G "$work/starts/hash.py" >"$work/starts/hash-read"
    [ -s "$work/starts/hash-read" ] && cmp "$work/starts/hash-pushed" "$work/starts/hash-read"
}
