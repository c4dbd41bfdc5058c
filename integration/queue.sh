# Jobs that an owner decides on: the examples of Syft Code Queue's document with `sway` in place of
# `scq`, by two users on a real worker, and what docs/migrating.md and docs/queue.md say of them.

owner=data-owner@university.edu

check_queue() {
    subject "Jobs that an owner decides on"
    document_files
    check "an image for all of them is exported" \
        sway export "$root/testapps/numpy" --name library/queue --no-trace "${base_arguments[@]}"
    check "a worker starts" fresh_worker worker-queue --default-image library/queue
    check "the owner stores a dataset under a name" owner_adds_data
    check "the document's folder is submitted, and is pending" folder_is_submitted
    check "the owner sees it, with every file, its image and data, and what the policy finds" folder_is_reviewed
    check "it runs once it is approved, and its submitter gets output and logs" folder_is_approved
    check "a script is submitted and rejected, and its submitter is told why" script_is_rejected
    check "the next review shows what changed since the approved job" changes_are_shown
    check "a program decides by --json on several at once" program_decides
    check "the document's bot decides by what the command prints" documents_bot_decides
    check "list, status and help tell all of them" counted
    check "packages of requirements.txt are in the job's image before it is reviewed" packages_are_installed
    check "what can't be installed is the job's end, and says what to do" packages_are_missing
    check "what makes no sense, or is not granted, is refused" refused_submissions
    check "a job that was changed after its approval does not run" changed_job
    check "approved jobs run once, though the worker is killed before their start" killed_before_start
    check "a worker for once runs what is approved, cleans up, and exits" worker_for_once
    check "the audit tells who did what, and is sound" audit_is_sound
    check "an edited, a removed and a cut-off entry are found" audit_is_checked
}

as_owner() { SWAY_USERNAME=$owner "$@"; }
as_bob() { SWAY_USERNAME=bob "$@"; }

# A process that was killed holds its address until the last of its threads is gone.
kill_worker() {
    stop worker-queue KILL
    wait_until 30 python3 -c 'import socket, sys
with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", int(sys.argv[1])))' "${WORKER_URL##*:}"
}

document_files() {
    local dir=$work/queue/my_analysis
    mkdir -p "$dir"
    cat >"$dir/run.sh" <<'END'
#!/bin/bash
set -e
echo "Starting analysis..."
# Install dependencies
if [ -f requirements.txt ]; then
pip install -r requirements.txt
fi
# Run analysis
python analyze.py
echo "Analysis complete!"
END
    chmod +x "$dir/run.sh"
    cat >"$dir/analyze.py" <<'END'
import csv, os
with open(os.environ["DATA_PATH"]) as data:
    total = sum(int(row["rain"]) for row in csv.DictReader(data))
with open(os.path.join(os.environ["OUTPUT_DIR"], "sums.csv"), "w") as out:
    print("rain", total, sep=",", file=out)
END
    echo "# My analysis" >"$dir/README.md"
    printf 'day,rain\n1,40\n2,2\n' >"$work/queue/weather.csv"
    echo "print('Hello, world!')" >"$work/queue/hello.py"
}

submit_folder() { # [ARGUMENTS...]
    (cd "$work/queue" && as_bob sway submit ./my_analysis --to "$owner" --name "Statistical Analysis" \
        --description "Aggregate statistics computation" --tags statistics,privacy-safe --data weather "$@")
}

submit_hello() { # [ARGUMENTS...]
    as_bob sway submit --script "$work/queue/hello.py" --to "$owner" --name "Hello World Test" "$@"
}

state() { as_bob sway status "$1" --json | jq -r .state; }

owner_adds_data() {
    as_owner sway data add weather "$work/queue/weather.csv"
    expect_equal "what is offered" "weather file weather.csv" \
        "$(as_bob sway data list --owner "$owner" --json | jq -r '.[] | "\(.name) \(.kind) \(.file)"')"
}

folder_is_submitted() {
    submit_folder >"$work/queue/first"
    expect_equal "state" pending "$(state "$(cat "$work/queue/first")")"
    expect_equal "limits" "600000 1073741824 1000 128" "$(as_bob sway status "$(cat "$work/queue/first")" --json |
        jq -r '.limits | "\(.timeout_ms) \(.memory_bytes) \(.cpus_milli) \(.pids)"')"
    as_owner sway pending >"$work/queue/pending"
    expect_match "pending" "$(cat "$work/queue/first") +pending +Statistical Analysis +bob" "$work/queue/pending"
    expect_equal "bob decides on" "[]" "$(as_bob sway pending --json | tr -d '\n')"
}

folder_is_reviewed() {
    local review=$work/queue/review manifest
    as_owner sway review "$(cut -c1-6 "$work/queue/first")" >"$review"
    manifest=$(as_bob sway images --json | jq -r '.[] | select(.name == "library/queue:latest") | .manifest')
    for pattern in 'name +Statistical Analysis' 'tags +statistics, privacy-safe' "image +library/queue@$manifest" \
        "dataset +$owner/weather@[0-9a-f]{40} at /data/weather.csv" 'time +10 min 0 s' 'memory +1 GiB' 'CPUs +1' 'processes +128' \
        'network +none' 'starts +/code/run.sh' '── run.sh .*executable' '    3 │ echo "Starting analysis..."' \
        'analyze.py:2:[0-9]+: .*open' 'none was approved'; do
        expect_match "the review" "$pattern" "$review"
    done
    expect_exit 1 as_bob sway approve "$(cat "$work/queue/first")" -r mine
    expect_match "the reason" "$owner decides on job" "$work/refused"
}

folder_is_approved() {
    local job
    job=$(cat "$work/queue/first")
    as_owner sway approve "$job" -r "Looks safe" | grep -x "$job approved"
    as_bob sway wait "$job" | grep -x "$job completed"
    as_bob sway output "$job" --to "$work/queue/output"
    expect_equal "sums.csv" "rain,42" "$(cat "$work/queue/output/sums.csv")"
    expect_equal "logs" $'Starting analysis...\nAnalysis complete!' "$(as_bob sway logs "$job")"
    as_bob sway status "$job" | grep -E 'reason +Looks safe'
    as_owner sway approve "$job" -r again | grep "was approved already, by $owner"
    expect_exit 1 as_owner sway reject "$job" -r "Too broad"
}

script_is_rejected() {
    local job
    job=$(submit_hello --json | jq -r .id)
    as_owner sway reject "$job" --reason "Too broad"
    expect_exit 1 as_bob sway wait "$job"
    expect_equal "state" rejected "$(state "$job")"
    as_bob sway status "$job" | grep -E 'reason +Too broad'
    expect_exit 1 as_bob sway logs "$job"
}

changes_are_shown() {
    local job
    sed -i 's/print("rain", total/print("rain", total * 2/' "$work/queue/my_analysis/analyze.py"
    job=$(submit_folder --timeout 60)
    as_owner sway review "$job" >"$work/queue/review"
    for pattern in "Changes since $(cat "$work/queue/first")" '^  -time +10 min' '^  \+time +1 min 0 s' \
        '^  -    print\("rain", total, sep' '^  \+    print\("rain", total \* 2, sep'; do
        expect_match "the review" "$pattern" "$work/queue/review"
    done
    as_owner sway reject "$job" -r "not twice"
}

program_decides() {
    local good bad id
    good=$(submit_hello)
    bad=$(as_bob sway submit --script "$work/queue/hello.py" --to "$owner" --name "Other")
    for id in $(as_owner sway pending --json | jq -r '.[] | select(.submission.name == "Hello World Test") | .id'); do
        [ "$(as_owner sway review "$id" --json | jq '.findings | length')" = 0 ]
        as_owner sway approve "$id" -r 'Auto-approved by bot'
    done
    as_owner sway reject "$bad" nowhere -r 'Does not meet criteria' && return 1
    expect_equal "the other" rejected "$(state "$bad")"
    as_bob sway wait "$good"
    expect_equal "output" 'Hello, world!' "$(as_bob sway logs "$good")"
}

documents_bot_decides() {
    local good bad
    good=$(submit_hello)
    bad=$(as_bob sway submit --script "$work/queue/hello.py" --to "$owner" --name "Everything")
    as_owner python3 - <<'END'
import subprocess

def get_job_ids_from_output(output):
    return [line.split()[0] for line in output.splitlines()[1:]]

def meets_my_criteria(job_id):
    shown = subprocess.run(['sway', 'review', job_id], capture_output=True, text=True)
    return 'Hello World Test' in shown.stdout

def smart_approval_bot():
    # Get pending jobs
    result = subprocess.run(['sway', 'pending'], capture_output=True, text=True)

    # Parse and approve based on criteria
    for job_id in get_job_ids_from_output(result.stdout):
        if meets_my_criteria(job_id):
            subprocess.run(['sway', 'approve', job_id, '-r', 'Auto-approved by bot'])
        else:
            subprocess.run(['sway', 'reject', job_id, '-r', 'Does not meet criteria'])

smart_approval_bot()
END
    as_bob sway wait "$good"
    as_bob sway status "$good" | grep -E 'reason +Auto-approved by bot'
    as_bob sway status "$bad" | grep -E 'reason +Does not meet criteria'
    expect_equal "pending" "[]" "$(as_owner sway pending --json | tr -d '\n')"
}

counted() {
    as_owner sway status >"$work/queue/status"
    expect_match "status" "^for $owner +0 +0 +0 +3 +0 +4 +0" "$work/queue/status"
    expect_equal "list" 7 "$(as_bob sway list --json | jq length)"
    as_bob sway list >"$work/queue/list"
    expect_match "list" "$(cat "$work/queue/first") +completed +Statistical Analysis +bob" "$work/queue/list"
    sway --help >"$work/queue/help"
    for command in pending review approve reject list status; do
        expect_match "help" "\b$command\b" "$work/queue/help"
    done
    expect_equal "somebody else's" 0 "$(SWAY_USERNAME=eve sway jobs --json | jq length)"
}

is_prepared() { as_bob sway status "$1" --json | jq -e '.submission.packages.state != "preparing"'; }

packages_are_installed() {
    local dir=$work/queue/packaged job
    mkdir -p "$dir" "$work/queue/wheels"
    python3 "$root/integration/make_wheel.py" "$work/queue/wheels" answer 1.0 'def main(): print(40 + 2)'
    as_owner sway data add wheels "$work/queue/wheels"
    as_owner sway queue set --wheels wheels | grep -E 'wheels +wheels'
    cp "$work/queue/my_analysis/run.sh" "$dir"
    echo 'answer >= 1  # the only one' >"$dir/requirements.txt"
    printf 'import answer\nanswer.main()\n' >"$dir/analyze.py"
    job=$(as_bob sway submit "$dir" --to "$owner" --name Answer)
    wait_until 120 is_prepared "$job"
    as_owner sway review "$job" >"$work/queue/review"
    expect_match "the review" 'packages +answer==1.0' "$work/queue/review"
    expect_match "the review" "installed into $(jq -r '.[] | select(.name == "library/queue:latest") | .manifest' <(as_bob sway images --json))" "$work/queue/review"
    as_owner sway approve "$job" --reason "Approved because..."
    as_bob sway wait "$job"
    as_bob sway logs "$job" >"$work/queue/log"
    expect_match "pip" 'Requirement already satisfied: answer>=1' "$work/queue/log"
    expect_match "the output" '^42$' "$work/queue/log"
    # The same, of a script: what was installed is used again.
    job=$(as_bob sway submit --script "$dir/analyze.py" --requirements 'answer >= 1' --to "$owner" --name Answer)
    wait_until 120 is_prepared "$job"
    as_owner sway approve "$job" -r ok
    as_bob sway wait "$job"
    expect_equal "the output" 42 "$(as_bob sway logs "$job")"
}

packages_are_missing() {
    local job
    touch "$work/queue/wheels/unbuilt-1.0.tar.gz"
    as_owner sway data add wheels "$work/queue/wheels"
    job=$(submit_hello --requirements unbuilt)
    expect_exit 1 as_bob sway wait "$job"
    as_bob sway status "$job" >"$work/queue/status"
    expect_match "the reason" 'unbuilt has to be built from source' "$work/queue/status"
    expect_match "the reason" "ask $owner" "$work/queue/status"
    expect_exit 125 submit_hello --requirements='-e .'
    expect_match "the reason" 'requirements.txt: line 1: it is an option' "$work/refused"
}

refused_submissions() {
    mkdir -p "$work/queue/empty"
    expect_exit 125 as_bob sway submit "$work/queue/empty" --to "$owner" --name x
    expect_match "the reason" 'has no run.sh' "$work/refused"
    expect_exit 125 submit_hello --data nothing
    expect_match "the reason" 'offers no dataset "nothing"; *|there are: weather' "$work/refused"
    expect_exit 125 submit_hello --timeout 601
    expect_exit 125 submit_hello --network isolated
    expect_match "the reason" 'does not grant a network' "$work/refused"
    as_owner sway queue set --datasets none-of-them --max-concurrent-jobs 1 | grep -E 'job timeout +600 s'
    expect_exit 125 submit_hello --data weather
    as_owner sway queue set --datasets all
}

# Something of the owner's that has the only turn, until it is cancelled.
occupy() {
    echo "import time; time.sleep(300)" >"$work/queue/hello.py"
    submit_hello >"$work/queue/busy"
    as_owner sway approve "$(cat "$work/queue/busy")" -r ok
    wait_until 30 is_in_state "$(cat "$work/queue/busy")" running
    echo "print('Hello, world!')" >"$work/queue/hello.py"
}
is_in_state() { [ "$(state "$1")" = "$2" ]; }
end_busy() { request POST "$WORKER_URL/v1/jobs/$(cat "$work/queue/busy")/cancel" >/dev/null; }

in_database() { # SQL [ARGUMENTS...]
    python3 - "$work/worker-queue/worker.db" "$@" <<'END'
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as connection:
    connection.executescript(sys.argv[2]) if len(sys.argv) == 3 else connection.execute(sys.argv[2], sys.argv[3:])
END
}

changed_job() {
    local job
    occupy
    job=$(submit_hello)
    as_owner sway approve "$job" -r ok
    in_database "UPDATE jobs SET spec = CAST(replace(CAST(spec AS TEXT), 'cHJpbnQ', 'cHJpbnR') AS BLOB) WHERE id = ?1" "$job"
    end_busy
    expect_exit 1 as_bob sway wait "$job"
    as_bob sway status "$job" | grep 'not started: it is not what was submitted'
    expect_equal "logs" "" "$(as_bob sway logs "$job")"
}

killed_before_start() {
    local jobs=() job
    occupy
    for _ in 1 2 3; do jobs+=("$(submit_hello)"); done
    as_owner sway approve "${jobs[@]}" -r ok
    kill_worker
    start_worker worker-queue --default-image library/queue
    as_bob sway wait "${jobs[@]}"
    for job in "${jobs[@]}"; do
        expect_equal "runs of $job" 1 "$(as_bob sway runs --json --limit 100 | jq --arg job "$job" 'map(select(.job_id == $job)) | length')"
    done
    expect_equal "the one that ran" failed "$(state "$(cat "$work/queue/busy")")"
}

worker_for_once() {
    local job waiting
    occupy
    job=$(submit_hello)
    as_owner sway approve "$job" -r ok
    waiting=$(submit_hello)
    as_owner sway queue set --cleanup-completed-after 0
    kill_worker
    timeout 60 "$bin/sway-worker" --data "$work/worker-queue" --listen "${WORKER_URL#http://}" \
        --fileserver "$FILESERVER_URL" --default-image library/queue --once
    start_worker worker-queue --default-image library/queue
    expect_equal "the approved one" completed "$(state "$job")"
    expect_equal "and its code" null "$(as_owner sway review "$job" --json | jq .spec)"
    expect_equal "the pending one" pending "$(state "$waiting")"
    as_owner sway audit --job "$job" --json | jq -e 'map(.action) == ["submitted", "approved", "started", "ended", "cleaned"]'
}

audit_is_sound() {
    SWAY_USERNAME=operator sway audit >"$work/queue/audit"
    expect_match "the audit" "^ *2 .* $owner +127.0.0.1 +approved +$(cat "$work/queue/first")" "$work/queue/audit"
    SWAY_USERNAME=operator sway audit --verify
    SWAY_USERNAME=operator sway audit --head >"$work/queue/head"
    SWAY_USERNAME=operator sway audit --verify --head "$(cat "$work/queue/head")"
}

audit_is_checked() {
    local change
    # Its triggers stand against it, until somebody takes them away.
    ! in_database "DELETE FROM audit WHERE seq = 3;" 2>/dev/null
    for change in "UPDATE audit SET actor = 'eve' WHERE seq = 3" "DELETE FROM audit WHERE seq = 3" \
        "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)"; do
        stop worker-queue
        cp "$work/worker-queue/worker.db" "$work/queue/before.db"
        in_database "DROP TRIGGER audit_is_not_changed; DROP TRIGGER audit_is_not_shortened; $change;"
        start_worker worker-queue --default-image library/queue
        expect_exit 1 env SWAY_USERNAME=operator sway audit --verify --head "$(cat "$work/queue/head")"
        expect_match "the fault" 'the audit is not what was written: audit entry [0-9]+' "$work/refused"
        stop worker-queue
        rm -f "$work"/worker-queue/worker.db-*
        cp "$work/queue/before.db" "$work/worker-queue/worker.db"
        start_worker worker-queue --default-image library/queue
    done
    SWAY_USERNAME=operator sway audit --verify --head "$(cat "$work/queue/head")"
}
