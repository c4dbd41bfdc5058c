# Datasets and outputs: the example of Syft Runtime's document as it stands there, in a folder that
# has its files (testapps/private-message), and what docs/migrating.md says of it.

check_data() {
    subject "Data and output"
    check "a worker starts" fresh_worker worker-data "${on_demand[@]}"
    rm -rf "$work/syft" && cp -r "$root/testapps/private-message" "$work/syft"
    check "a pyproject.toml makes an image with exactly its packages" function_image
    check "the document's command reads the data and brings output and logs back" document_example
    check "the panel and the mount path are as in the document, and stdout is the job's alone" document_panel
    check "a dataset that the fileserver has is not sent again" sent_once
    check "several datasets, a folder of them, and another place for the output" several_datasets
    check "a large file is read as far as it is read" read_lazily
    check "output and logs come back when the time is over" after_a_timeout
    check "what a limit of /output refuses is on record, and the cause is output_limit" output_limits
    check "a dataset that leads out, and one that is not there, are refused by name" refused_datasets
    check "a detached job's output is fetched later" fetched_later
    check "nothing is left of the runs" nothing_left
}

in_syft() { (cd "$work/syft" && "$@"); }

# Folders of jobs, oldest first.
job_folders() { find "$work/syft/${1:-jobs}" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -n | cut -d' ' -f2; }
last_folder() { job_folders "$@" | tail -1; }

function_image() {
    in_syft sway export ./example/ds/function1 --name function1 --no-trace "${base_arguments[@]}"
    cat >"$work/packages.py" <<'END'
import importlib.util, pathlib
print(importlib.util.find_spec("tomli") is not None, importlib.util.find_spec("numpy"), pathlib.Path("/app/main.py").exists())
END
    expect_equal "packages" "True None False" "$(sway run --image function1 "$work/packages.py")"
}

document_example() {
    local folder
    in_syft sway run ./example/ds/function1 ./example/do/dataset1/private_message.txt --timeout 10 \
        >"$work/syft.out" 2>"$work/syft.err" || { cat "$work/syft.err"; return 1; }
    folder=$(last_folder)
    [[ ${folder##*/} =~ ^[0-9]{8}_[0-9]{6}$ ]] || { echo "folder $folder"; return 1; }
    expect_equal "the folder holds" "logs output" "$(cd "$folder" && echo *)"
    expect_equal "output" $'from\nto\ntext' "$(cat "$folder/output/names.txt")"
    cmp "$work/syft.out" "$folder/logs/stdout.log"
    expect_equal "stderr.log" "" "$(cat "$folder/logs/stderr.log")"
}

document_panel() {
    expect_equal "stdout" "3 entries in /data/private_message.txt, 10 seconds to read them" "$(cat "$work/syft.out")"
    local stamp
    stamp=$(basename "$(last_folder)")
    cat >"$work/panel" <<END
Data mount path: /data/private_message.txt
╭────────────────────────────── Job Configuration ──────────────────────────────╮
│ Starting job                                                                  │
│ Function: example/ds/function1 → /code                                        │
│ Dataset:  example/do/dataset1/private_message.txt → /data/private_message.txt │
│ Output:   jobs/$stamp → /output                                      │
│ Timeout:  10s                                                                 │
╰───────────────────────────────────────────────────────────────────────────────╯
END
    head -8 "$work/syft.err" | diff "$work/panel" -
}

sent_once() {
    local again="$work/syft-again.err"
    in_syft sway --verbose run ./example/ds/function1 ./example/do/dataset1/private_message.txt 2>"$again" >/dev/null
    expect_match "the log" 'dataset stored.*bytes_sent=0' "$again"
}

several_datasets() {
    mkdir -p "$work/syft/several/tables"
    echo '[one]' >"$work/syft/several/tables/one.toml"
    cat >"$work/syft/several/main.py" <<'END'
import os
print(os.environ["DATA_PATH"], sorted(os.path.relpath(os.path.join(at, name), "/data") for at, _, names in os.walk("/data") for name in names))
open(os.path.join(os.environ["OUTPUT_DIR"], "done"), "w")
END
    expect_equal "what the job sees" "/data ['message', 'tables/one.toml']" "$(in_syft sway run --image function1 several/main.py \
        --data message=example/do/dataset1/private_message.txt --data several/tables --output-dir results/)"
    [ -f "$(last_folder results)/output/done" ]
    expect_equal "a folder alone" "/data ['private_message.txt']" \
        "$(in_syft sway run --image function1 several ./example/do/dataset1)"
}

read_lazily() {
    head -c 200000000 /dev/urandom >"$work/syft/large.bin"
    echo 'import os; file = open(os.environ["DATA_PATH"], "rb"); file.seek(150_000_000); print(file.read(100).hex())' >"$work/syft/seek.py"
    local expected
    expected=$(od -An -v -tx1 -j 150000000 -N 100 "$work/syft/large.bin" | tr -d ' \n')
    expect_equal "bytes" "$expected" "$(in_syft sway run --image function1 seek.py --data large.bin)"
    expect_at_most "bytes fetched" 20000000 "$(last_run tester bytes_fetched)"
    rm "$work/syft/large.bin"
}

after_a_timeout() {
    printf 'import time\nopen("/output/half", "w").write("half")\nprint("before")\ntime.sleep(60)\n' >"$work/syft/slow.py"
    expect_exit 124 in_syft sway run --image function1 slow.py --output-dir slow --timeout 3
    expect_equal "output" half "$(cat "$(last_folder slow)/output/half")"
    expect_equal "log" before "$(cat "$(last_folder slow)/logs/stdout.log")"
}

output_limits() {
    echo 'open("/output/a", "w").write("x" * 2_000_000)' >"$work/syft/bytes.py"
    echo 'for n in range(11): open(f"/output/{n}", "w")' >"$work/syft/files.py"
    local limit pattern
    while read -r limit pattern script; do
        expect_exit 137 in_syft sway run --image function1 "$script" "--output-$limit"
        expect_match "the last line" "output_limit.*/output.*$pattern" <(tail -1 "$work/refused")
        expect_equal "cause" output_limit "$(last_run tester cause)"
    done <<'END'
size=1M full bytes.py
files=10 files files.py
file-size=1M length bytes.py
END
}

refused_datasets() {
    mkdir -p "$work/syft/leaks"
    ln -sf /etc/passwd "$work/syft/leaks/passwd"
    local before
    before=$(job_folders | wc -l)
    expect_exit 125 in_syft sway run ./example/ds/function1 ./leaks
    expect_match "the reason" 'leaks/passwd is a link' "$work/refused"
    expect_exit 125 in_syft sway run ./example/ds/function1 --data nowhere.csv
    expect_match "the reason" 'no nowhere.csv' "$work/refused"
    expect_exit 125 in_syft sway run ./example/ds/function1 --data example/do/dataset1 --output-size 100G
    expect_match "the reason" 'output.bytes' "$work/refused"
    expect_equal "folders of jobs" "$before" "$(job_folders | wc -l)"
}

fetched_later() {
    local job
    job=$(in_syft sway run ./example/ds/function1 ./example/do/dataset1/private_message.txt --detach)
    wait_until 30 sway outputs "$job"
    expect_equal "paths" names.txt "$(sway outputs "$job" --json | jq -r '.[].path')"
    sway outputs "$job" --to "$work/syft/later"
    expect_equal "output" $'from\nto\ntext' "$(cat "$work/syft/later/names.txt")"
}

is_empty() { [ -z "$(ls -A "$1")" ]; }

nothing_left() {
    wait_until 10 is_empty "$work/worker-data/jobs"
    expect_equal "mounts of runs" "" "$(mounts_below "$work/worker-data/jobs")"
}
