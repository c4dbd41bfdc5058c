# The requests and handlers that the documents of PyRunner, SRaaS and tinycontainerruntime show, as
# they stand there, against a real worker with `--open`: only host and port are changed.

check_requests() {
    subject "Requests of other systems"
    mkdir -p "$work/requests"
    check_seconds=900 check "images/science is built and exported as library/science" \
        sway export "$root/images/science" --name library/science "${base_arguments[@]}"
    check_seconds=900 check "images/node is built and exported as library/node" \
        sway export "$root/images/node" --name library/node "${base_arguments[@]}"
    check "a worker starts" fresh_worker worker-requests --open

    check "GET / tells the service, its limits and its libraries" health
    check "code prints" code_prints 'Hello, PyRunner!\n' '{"code": "print(\"Hello, PyRunner!\")"}'
    check "code with all parameters prints" code_prints 'Hello, World!\n' \
        '{"code": "print('"'Hello, World!'"')", "timeout": 30, "memory_limit": 512}'
    check "code that comes again runs in a container that waited" code_is_pooled
    check "an error is told with its line, and the whole traceback" code_fails
    check "the example with math" code_prints 'Result: 7.141592653589793\n' "$(code 10 math)"
    check "the example with numpy and pandas" code_with_pandas
    check "the example with sympy" code_prints 'Solutions: [1, 3]\nDerivative: 3*x**2 - 4*x + 1\n' "$(code 15 sympy)"
    check "a timeout is a status" code_ends timeout '{"code": "while True: pass", "timeout": 1}'
    check "too much memory is a status" code_ends memory_exceeded '{"code": "x = b\"x\" * (1 << 28)", "memory_limit": 64}'
    check "sys.exit is an error with its number" code_exits
    check "a validation error names the field" refused_field timeout '{"code": "1", "timeout": 301}'
    check "and so does one of the memory" refused_field memory_limit '{"code": "1", "memory_limit": 1}'

    check "a handler divides" handles division '{"a": 4, "b": 1}' '.result.quotient == 4 and .error == null and .logs == "" and (.duration_ms | type) == "number"'
    check "a division by zero is told with its stack trace" handles division '{"a": 4, "b": 0}' '.result == null and (.error | test("main.py\", line 4") and test("ZeroDivisionError: division by zero"))'
    check "the simple function" handles math '{"a": 3, "b": 2}' '.result == {"sum": 5, "product": 6, "quotient": 1.5}'
    check "the function with logging" handles logging '{"value": 21}' '.result == {"result": 42} and (.logs | test("Processing event: .*value.*\n.*Result: 42"))'
    check "the function with error handling" handles errors '{}' '.error | test("ValueError: Missing required_field")'
    check "a Node.js handler" node_handler
    check "an input of another version is refused" refused_version
    check "sway invoke prints the same answer" invoked
    check "sway invoke of what fails ends with 1" expect_exit 1 invoke '{"a": 4, "b": 0}'

    check "a script is uploaded and run by its name" uploaded
    check "a worker with --policy science starts" fresh_worker worker-requests --open --policy science
    check "what the policy blocks is told with line and column, and not run" blocked
    check "what it allows is run" code_prints 'Result: 7.141592653589793\n' "$(code 10 math)"

    check "a worker with --open starts again" fresh_worker worker-fuzzed --open
    check "malformed and hostile requests, made from /openapi.json, get no 5xx and no undeclared answer" fuzzed
    check "the worker did not panic and still answers" unharmed worker-fuzzed
}

# Requests that fit the description and such that do not. What an answer to the description says
# of status, type and shape has to be so.
fuzzed() {
    (cd "$work/requests" && timeout -k 5 120 "$schemathesis" run "$WORKER_URL/openapi.json" \
        --header "Authorization: Bearer $SWAY_TOKEN" \
        --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
        --phases examples,coverage,fuzzing --max-examples "${SWAY_TEST_EXAMPLES:-10}" --max-time 60 \
        --request-timeout 40 --seed 1 --no-shrink --warnings off --generation-database none)
}

unharmed() { # WORKER
    is_running "$1"
    ! grep -E "panicked|ERROR" "$work/log/$1"
    curl -fsS -m 10 -H "Authorization: Bearer $SWAY_TOKEN" "$WORKER_URL/v1/runs?limit=1"
}

# Posts JSON as the documents do; the answer is in $work/answer.
post() { # PATH JSON
    local status
    status=$(curl -sS -m 120 -o "$work/answer" -w '%{http_code}' -H 'Content-Type: application/json' -d "$2" "$WORKER_URL$1")
    echo "$status $(cat "$work/answer")"
    printf '%s' "$status" >"$work/status"
}

holds() { # JQ
    jq -e "$1" "$work/answer" >"$work/answer-holds" || { echo "does not hold: $1"; return 1; }
}

health() {
    curl -sS -m 30 "$WORKER_URL/" >"$work/answer"
    cat "$work/answer"
    holds '.service == "Sway" and .status == "healthy" and (.version | type) == "string"'
    holds '.capabilities.max_timeout == 300 and .capabilities.max_memory_mb == 2048'
    holds '.capabilities.libraries == ["sympy", "numpy", "pandas", "matplotlib", "scipy", "sklearn"]'
}

code_prints() { # STDOUT JSON
    post /run "$2"
    expect_equal status 200 "$(cat "$work/status")"
    holds '.status == "success" and .stderr == "" and .error == null'
    holds '.execution_time > 0 and .memory_used > 1 and (keys | length) == 6'
    jq -j .stdout "$work/answer" >"$work/requests/stdout"
    # shellcheck disable=SC2059
    printf "$1" | cmp - "$work/requests/stdout"
}

# Its answer is the same; the run's record tells.
code_is_pooled() {
    for _ in $(seq 100); do
        post /run '{"code": "print(\"hi\")"}'
        holds '.status == "success" and .stdout == "hi\n" and .stderr == "" and .error == null'
        # Whoever needs no token is another user.
        request GET "$WORKER_URL/v1/runs?all=true&limit=1" | head -1 >"$work/last-run"
        if jq -e '.runs[0].pooled' "$work/last-run"; then
            return
        fi
        sleep 0.2
    done
    echo "no container waits"
    return 1
}

code_fails() {
    post /run '{"code": "undefined"}'
    expect_equal status 200 "$(cat "$work/status")"
    holds '.status == "error" and .stdout == "" and .error == "NameError on line 1"'
    holds '.stderr | startswith("Traceback") and endswith("NameError: name '"'undefined'"' is not defined\n")'
}

# A request with one of the documents' examples.
code() { # TIMEOUT EXAMPLE
    "example_$2" | jq -Rs --argjson timeout "$1" '{code: ., timeout: $timeout}'
}

example_math() {
    cat <<'END'

import math
result = math.sqrt(16) + math.pi
print(f'Result: {result}')
END
}

example_pandas() {
    cat <<'END'

import numpy as np
import pandas as pd

# Create data
data = np.random.randn(100)
df = pd.DataFrame({'values': data})

# Calculate statistics
print(f'Mean: {df.values.mean():.3f}')
print(f'Std: {df.values.std():.3f}')
print(f'Count: {len(df)}')
END
}

example_sympy() {
    cat <<'END'

import sympy as sp

# Define symbol
x = sp.Symbol('x')

# Solve equation
equation = x**2 - 4*x + 3
solutions = sp.solve(equation, x)
print(f'Solutions: {solutions}')

# Calculus
f = x**3 - 2*x**2 + x
derivative = sp.diff(f, x)
print(f'Derivative: {derivative}')
END
}

code_with_pandas() {
    post /run "$(example_pandas | jq -Rs '{code: ., memory_limit: 256}')"
    holds '.status == "success"'
    holds '.stdout | test("^Mean: -?[0-9.]+\nStd: [0-9.]+\nCount: 100\n$")'
}

code_ends() { # STATUS JSON
    post /run "$2"
    expect_equal status 200 "$(cat "$work/status")"
    holds ".status == \"$1\" and (.error | type) == \"string\""
}

code_exits() {
    post /run '{"code": "import sys; print(1); sys.exit(3)"}'
    holds '.status == "error" and .stdout == "1\n" and .error == "exit status 3"'
}

refused_field() { # FIELD JSON
    post /run "$2"
    expect_equal status 422 "$(cat "$work/status")"
    holds ".detail[0].loc == [\"body\", \"$1\"] and (.error.message | startswith(\"$1\"))"
}

# The documents' handlers, each in a main.py.

source_division() {
    cat <<'END'

def handler(event, context):
    return {
        "quotient": event["a"] / event["b"]
    }
END
}

source_math() {
    cat <<'END'
# main.py
def handler(event, context):
    a = event.get("a", 0)
    b = event.get("b", 0)

    return {
        "sum": a + b,
        "product": a * b,
        "quotient": a / b if b != 0 else None
    }
END
}

source_logging() {
    cat <<'END'
# main.py
import logging

def handler(event, context):
    logging.info(f"Processing event: {event}")

    result = event["value"] * 2

    logging.info(f"Result: {result}")
    return {"result": result}
END
}

source_errors() {
    cat <<'END'
# main.py
def handler(event, context):
    try:
        # Your logic here
        if "required_field" not in event:
            raise ValueError("Missing required_field")

        return {"status": "success"}
    except Exception as e:
        # Errors are captured and returned in response
        raise
END
}

handles() { # SOURCE EVENT JQ
    post /execute "$("source_$1" | jq -Rs --argjson event "$2" \
        '{handler: "main.handler", code: ., input: {version: "v1", context: {}, event: $event}}')"
    expect_equal status 200 "$(cat "$work/status")"
    holds "$3"
}

node_handler() {
    post /execute '{"handler": "main.handler", "runtime": "nodejs", "input": {"version": "v1", "event": {"a": 4}},
        "code": "exports.handler = async (event) => { console.log(\"seen\"); return {double: 2 * event.a}; };"}'
    holds '.result == {"double": 8} and .logs == "seen\n" and .error == null'
}

refused_version() {
    post /execute '{"handler": "main.handler", "code": "", "input": {"version": "v2", "context": {}, "event": {}}}'
    expect_equal status 400 "$(cat "$work/status")"
    holds '.error.message | test("version")'
}

invoke() { # EVENT
    source_division >"$work/requests/main.py"
    jq -n --argjson event "$1" '{version: "v1", context: {}, event: $event}' >"$work/requests/data.json"
    (cd "$work/requests" && sway invoke main.handler --code main.py --event data.json)
}

invoked() {
    invoke '{"a": 4, "b": 1}' >"$work/answer"
    cat "$work/answer"
    holds '.result == {"quotient": 4} and .logs == "" and .error == null and (keys | length) == 4'
}

uploaded() {
    local status script=$root/testapps/scipy/app.py
    status=$(jq -n --arg value "$(base64 -w0 "$script")" \
        '[{key: "app/ada_app.py", value: $value, name: "ada_app.py", parent: "app", mode: 420}]' |
        curl -sS -m 30 -X PUT -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' -d @- "$WORKER_URL/batch-upload")
    expect_equal "status of the upload" 200 "$status"
    post /run '{"FileName": "ada_app.py", "Username": "ada"}'
    holds '.exit_code == 0 and .run_id > 0 and .stderr == "" and (.stdout | test("svd: u=\\(100, 100\\), s=\\(100,\\)"))'
}

blocked() {
    post /run '{"code": "x = 1\nimport os\nopen(\"/etc/passwd\")"}'
    expect_equal status 200 "$(cat "$work/status")"
    holds '.status == "error" and .stdout == ""'
    holds '.error | test("main.py:2:8: import of os is not allowed; main.py:3:1: use of open is not allowed")'
}
