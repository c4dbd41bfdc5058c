# Sourced by integration_test.sh: counting checks, starting and stopping servers, reading records.
#
# A check is a sentence and a command. The command runs in a subshell under `set -e`, so that its
# first failing step is its end; what it printed is shown only if it failed. Checks leave things
# behind in files below $work, never in variables.

passed=0
failed=0

ok() { passed=$((passed + 1)); printf 'ok    %s\n' "$1"; }

not_ok() { # SENTENCE LOGFILE
    failed=$((failed + 1))
    printf 'FAIL  %s\n' "$1"
    tail -n "${SWAY_TEST_LINES:-25}" "$2" | sed 's/^/        | /'
}

# Seconds that a check may take: nothing that hangs hangs the rest.
check_seconds=300

check() { # SENTENCE COMMAND...
    local sentence=$1 status=0 pid deadline=$((SECONDS + check_seconds))
    shift
    # In a process group of its own, so that all of it can be killed.
    set -m
    (set +m -e; "$@") >"$work/check.log" 2>&1 </dev/null &
    pid=$!
    set +m
    while kill -0 $pid 2>/dev/null; do
        if [ $SECONDS -ge $deadline ]; then
            echo "not done after $check_seconds s" >>"$work/check.log"
            kill -KILL -- -$pid
            not_ok "$sentence" "$work/check.log"
            return 1
        fi
        sleep 0.05
    done
    wait $pid || status=$?
    if [ $status = 0 ]; then ok "$sentence"; else not_ok "$sentence" "$work/check.log"; fi
    return $status
}

subject() { printf '\n%s\n' "$*"; }

# --- what checks are made of -------------------------------------------------------------------

expect_equal() { # WHAT EXPECTED ACTUAL
    [ "$2" = "$3" ] || { echo "$1: expected '$2', got '$3'"; return 1; }
}

expect_at_most() { # WHAT LIMIT ACTUAL
    [ "$3" -le "$2" ] || { echo "$1: $3 is more than $2"; return 1; }
    echo "$1: $3"
}

expect_match() { # WHAT PATTERN FILE
    grep -qE -- "$2" "$3" || { echo "$1: no line matches '$2' in:"; tail -20 "$3"; return 1; }
}

# Runs a command that has to fail as said. Its output is in $work/refused.
expect_exit() { # CODE COMMAND...
    local code=$1 status=0
    shift
    "$@" >"$work/refused.out" 2>"$work/refused" || status=$?
    [ $status = "$code" ] || { echo "exit code $status, not $code: $*"; cat "$work/refused"; return 1; }
}

wait_until() { # SECONDS COMMAND...
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || { echo "not within its deadline: $*"; return 1; }
        sleep 0.1
    done
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# --- servers -----------------------------------------------------------------------------------

# Each server has a name; its process id is in $work/pid/NAME, its log in $work/log/NAME.

start() { # NAME URL COMMAND...
    local name=$1 url=$2
    shift 2
    "$@" >>"$work/log/$name" 2>&1 </dev/null &
    echo $! >"$work/pid/$name"
    wait_until 30 curl -fsS -o /dev/null "$url/healthz" || { tail -20 "$work/log/$name"; return 1; }
}

# A process that ended and that nobody has waited for does not run.
is_running() {
    [ -f "$work/pid/$1" ] && grep -qv '^State:.*Z' <(grep '^State:' "/proc/$(cat "$work/pid/$1")/status" 2>/dev/null)
}
is_gone() { ! is_running "$1"; }

stop() { # NAME [SIGNAL]
    is_running "$1" || return 0
    kill "-${2:-TERM}" "$(cat "$work/pid/$1")"
    wait_until 30 is_gone "$1" || kill -KILL "$(cat "$work/pid/$1")"
    rm -f "$work/pid/$1"
}

start_fileserver() { # [NAME DATA [ARGUMENTS...]]
    start "${1:-fileserver}" "$FILESERVER_URL" \
        "$bin/sway-fileserver" --data "${2:-$store}" --listen "${FILESERVER_URL#http://}" "${@:3}"
}

start_worker() { # NAME [ARGUMENTS...]: data below $work, on the one worker's address
    local name=$1
    shift
    start "$name" "$WORKER_URL" "$bin/sway-worker" --data "$work/$name" \
        --listen "${WORKER_URL#http://}" --fileserver "$FILESERVER_URL" "$@"
}

# Arguments of a worker that fetches what jobs read, and nothing else.
readonly on_demand=(--no-predict --trace off --pool off)

# A worker that has never seen anything, in place of the one that runs.
fresh_worker() { # NAME [ARGUMENTS...]
    stop_workers
    rm -rf --one-file-system "${work:?}/$1"
    start_worker "$@"
}

stop_workers() {
    local file
    for file in "$work"/pid/*; do
        case ${file##*/} in worker*) stop "${file##*/}" ;; esac
    done
}

# --- records -----------------------------------------------------------------------------------

# The newest run of a user, or one field of it.
last_run() { # USER [FIELD]
    SWAY_USERNAME=$1 sway runs --json --limit 100 >"$work/runs-$1"
    jq -er --arg user "$1" "map(select(.username == \$user))[0] | .${2:-}" "$work/runs-$1" ||
        { echo "no run of $1 is on record, or it has no ${2:-record}"; return 1; }
}

# Requests with the token; prints the body, and the status on a line of its own.
request() { # METHOD URL [CURL ARGUMENTS...]
    local method=$1 url=$2
    shift 2
    curl -sS -m 30 -X "$method" -H "Authorization: Bearer $SWAY_TOKEN" -w '\n%{http_code}\n' "$@" "$url"
}

# --- what must not be left behind --------------------------------------------------------------

# Mount points below a directory, and those elsewhere whose mount is made of something in it.
mounts_below() { awk -v dir="$1/" 'index($0, dir) { print $5 }' /proc/self/mountinfo; }

clean_up() {
    local status=$? file mount
    trap - EXIT INT TERM
    for file in "$work"/pid/*; do
        [ ! -f "$file" ] || stop "${file##*/}" >/dev/null 2>&1
    done
    mounts_below "$work" | tac | while read -r mount; do umount -l "$mount"; done
    if [ "$failed" != 0 ] || [ $status != 0 ]; then
        rm -rf "$root/target/integration-logs"
        mkdir -p "$root/target"
        cp -r "$work/log" "$root/target/integration-logs" && echo "the servers' logs are in target/integration-logs" >&2
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}

stop_all() {
    local pids
    stop_workers
    pids=$(cat "$work/pid/fileserver")
    stop fileserver
    [ ! -d "/proc/$pids" ] || grep -q '^State:.*Z' "/proc/$pids/status"
}
