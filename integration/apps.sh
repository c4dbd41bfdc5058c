# The test apps: exported with the machine's builder, run, and compared with what is expected of
# them (testapps/README.md has the convention).

apps_with_image() { for file in "$root"/testapps/*/Dockerfile; do basename "$(dirname "$file")"; done; }

all_apps() {
    local dir
    for dir in "$root"/testapps/*/expected; do basename "$(dirname "$dir")"; done | grep -vx isolation
}

export_app() { # APP [ARGUMENTS...]
    local app=$1
    shift
    sway export "$root/testapps/$app" --name "$app" "${base_arguments[@]}" "$@"
}

# The lines of a file, or nothing.
lines_of() { [ ! -f "$1" ] || cat "$1"; }

run_app() { # APP: leaves stdout, stderr and the exit code in $work/app/APP
    local app=$1 dir=$root/testapps/$1 out=$work/app/$1 image=numpy script=app.py code=0
    local flags=() arguments=() input=/dev/null
    mkdir -p "$out"
    [ ! -f "$dir/Dockerfile" ] || image=$app
    [ ! -f "$dir/image" ] || image=$(cat "$dir/image")
    [ ! -f "$dir/script" ] || script=$(cat "$dir/script")
    [ ! -f "$dir/stdin" ] || input=$dir/stdin
    mapfile -t flags < <(lines_of "$dir/flags")
    mapfile -t arguments < <(lines_of "$dir/args" |
        sed "s|^{fileserver}$|${FILESERVER_URL#http://}|; s|^{worker}$|${WORKER_URL#http://}|")
    # A user for each, so that its run is found in the log whatever runs beside it.
    SWAY_USERNAME=app-$app sway run --image "tester/$image" "${flags[@]}" "$dir/$script" -- "${arguments[@]}" \
        >"$out/stdout" 2>"$out/stderr" <"$input" || code=$?
    echo $code >"$out/exit_code"
}

judge_app() { # APP
    local app=$1 expected=$root/testapps/$1/expected out=$work/app/$1 pattern stream least most size
    tail -5 "$out/stderr"
    expect_equal "exit code" "$(lines_of "$expected/exit_code" | grep . || echo 0)" "$(cat "$out/exit_code")"
    if [ -f "$expected/stdout" ]; then
        cmp "$expected/stdout" "$out/stdout" || { head -c 2000 "$out/stdout"; return 1; }
    fi
    for stream in stdout stderr; do
        while IFS= read -r pattern; do
            expect_match "$stream" "$pattern" "$out/$stream"
        done < <(lines_of "$expected/$stream.has")
    done
    if [ -f "$expected/stdout.bytes" ]; then
        read -r least most <"$expected/stdout.bytes"
        size=$(stat -c %s "$out/stdout")
        [ "$size" -ge "$least" ] && [ "$size" -le "$most" ] || { echo "stdout has $size bytes"; return 1; }
    fi
    expect_equal "cause on record" "$(lines_of "$expected/cause" | grep . || echo exited)" "$(last_run "app-$app" cause)"
}

run_and_judge() { run_app "$1"; judge_app "$1"; }

check_apps() { # skip-export? concurrent?
    local app
    subject "The test apps"
    check "a worker starts" fresh_worker worker
    if [ "$1" = false ]; then
        for app in $(apps_with_image); do
            check "$app: its image is built and exported" export_app "$app"
        done
        check "a second export of the same image sends no blob" second_export_sends_nothing
    fi
    if [ "$2" = true ]; then
        for app in $(all_apps); do
            run_app "$app" >"$work/log/app-$app" 2>&1 </dev/null &
            echo $! >>"$work/app-pids"
        done
        wait $(cat "$work/app-pids")
        for app in $(all_apps); do check "$app: all comes out as expected, with all of them at once" judge_app "$app"; done
    else
        for app in $(all_apps); do check "$app: all comes out as expected" run_and_judge "$app"; done
    fi
    check "a script's own project gives its image" project_gives_the_image
    check "eight jobs of one user at once: outputs, exit codes and counts are each one's own" eight_at_once
    check_streaming
}

second_export_sends_nothing() {
    export_app numpy --json >"$work/second.json" 2>"$work/second.log" || { cat "$work/second.log"; return 1; }
    cat "$work/second.json"
    expect_equal "new blobs" 0 "$(jq .new_blobs "$work/second.json")"
    expect_equal "bytes sent" 0 "$(jq .bytes_sent "$work/second.json")"
}

project_gives_the_image() {
    cd "$root/testapps/numpy"
    sway run app.py >"$work/project.out"
    cmp expected/stdout "$work/project.out"
}

# Each job reads files of the image that nothing has read before, each another number of them.
# After a run that has read what Python itself needs, these are all that is fetched, where nothing
# is guessed.
eight_at_once() {
    local number pid pids=() code
    fresh_worker worker-eight "${on_demand[@]}"
    cat >"$work/reads.py" <<'END'
import sys

job, files = int(sys.argv[1]), int(sys.argv[2])
for file in range(files):
    # testapps/many-small-files has read the first of each directory.
    number = (40 + job) * 200 + 1 + file
    with open(f"/files/{40 + job:02}/{number:05}") as text:
        assert text.readline() == f"file {number}\n"
print(f"job {job} read {files} files")
sys.exit(job)
END
    expect_exit 9 sway run --image many-small-files --timeout 60 "$work/reads.py" 9 1
    for number in 1 2 3 4 5 6 7 8; do
        cp "$work/reads.py" "$work/reads-$number.py"
        sway run --image many-small-files --timeout 60 "$work/reads-$number.py" "$number" $((20 + number)) \
            >"$work/eight-$number.out" 2>"$work/eight-$number.err" &
        pids+=($!)
    done
    number=0
    for pid in "${pids[@]}"; do
        number=$((number + 1))
        code=0
        wait "$pid" || code=$?
        cat "$work/eight-$number.err"
        expect_equal "exit code" $number $code
        expect_equal "output" "job $number read $((20 + number)) files" "$(cat "$work/eight-$number.out")"
    done
    sway runs --json --limit 20 >"$work/eight.json"
    for number in 1 2 3 4 5 6 7 8; do
        jq -c ".[] | select(.filename == \"reads-$number.py\") | {filename, exit_code, server_fetches, memory_cache_hits, disk_cache_hits}" "$work/eight.json"
        expect_equal "chunks of job $number" $((20 + number)) \
            "$(jq "[.[] | select(.filename == \"reads-$number.py\")][0].server_fetches" "$work/eight.json")"
        expect_equal "exit code on record" $number \
            "$(jq "[.[] | select(.filename == \"reads-$number.py\")][0].exit_code" "$work/eight.json")"
    done
}

check_streaming() {
    check "each line arrives within 0.1 s of being written, through the command line" stream_through_cli
    check "each line arrives within 0.1 s of being written, through HTTP" stream_through_http
}

stream_through_cli() {
    sway run --image numpy --cpus 1 --timeout 30 "$root/testapps/streaming/app.py" |
        python3 "$root/integration/line_delays.py" 15 0.1
}

stream_through_http() {
    local job
    job=$(sway run --detach --image numpy --cpus 1 --timeout 30 "$root/testapps/streaming/app.py")
    curl -sSN -m 60 -H "Authorization: Bearer $SWAY_TOKEN" -H 'X-Sway-User: tester' "$WORKER_URL/v1/jobs/$job/logs" |
        python3 "$root/integration/line_delays.py" --events 15 0.1
}
