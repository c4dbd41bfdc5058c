# The Python client: its lints, its installation with pip, and its tests against a real worker, on each
# Python of this machine that it is for. The oldest and the newest run all tests, the others those
# that need no worker. One more environment has Jupyter: there the notebooks are executed, and the
# buttons pressed.

check_python() {
    local versions
    subject "The Python client"
    stop_workers
    pythons >"$work/pythons"
    versions=$(cut -d' ' -f1 "$work/pythons" | xargs)
    check "it installs with pip, on Python ${versions:-?}" install_clients || return
    check "it installs in development mode, from its folder" install_editable
    check "it is formatted, and ruff and mypy --strict find nothing" lint_client
    check "an image that everybody can run is exported" \
        sway export "$root/testapps/numpy" --name library/queue --no-trace "${base_arguments[@]}" || return
    check "its tests pass, on the oldest and the newest with a real worker" test_clients
    check "its notebooks run from end to end, and their buttons decide" test_notebooks
}

# Version and path of each Python from 3.9 on that has pip, the oldest first.
pythons() {
    local python
    for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3 /usr{/local,}/bin/python3.*[0-9] "$(command -v python3)"; do
        [ ! -x "$python" ] || "$python" - <<'PYTHON' 2>/dev/null || true
import sys, pip, venv
if sys.version_info >= (3, 9):
    print("%d.%d" % sys.version_info[:2], sys.executable)
PYTHON
    done | sort -V | awk '!seen[$1]++'
}

# One wheel, in an environment of its own for each Python, without whatever else is on the machine.
# pytest is the same for all of them: the one that the oldest can use.
install_clients() {
    local version python oldest newest pids=()
    read -r _ oldest < <(head -1 "$work/pythons")
    read -r _ newest < <(tail -1 "$work/pythons")
    export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
    cp -r "$root/clients/python" "$work/client"
    "$newest" -m pip wheel -q --no-deps -w "$work/wheel" "$work/client"
    "$oldest" -m pip install -q --target "$work/pytest" 'pytest>=8' &
    pids+=($!)
    while read -r version python; do
        "$python" -m venv --without-pip "$work/python-$version"
        install_into "$python" "$work/python-$version" "$work"/wheel/sway-*.whl &
        pids+=($!)
    done <"$work/pythons"
    "$newest" -m venv --without-pip "$work/linters"
    install_into "$newest" "$work/linters" "$(echo "$work"/wheel/sway-*.whl)[lint]" &
    pids+=($!)
    "$newest" -m venv --without-pip "$work/jupyter"
    install_into "$newest" "$work/jupyter" "$(echo "$work"/wheel/sway-*.whl)[jupyter,notebooks]" &
    pids+=($!)
    wait_for "${pids[@]}"
}

install_editable() {
    local newest
    read -r _ newest < <(tail -1 "$work/pythons")
    "$newest" -m venv --without-pip "$work/editable"
    (cd "$work/client" && "$newest" -m pip --python "$work/editable/bin/python" install -q -e .)
    (cd / && "$work/editable/bin/python" -c 'import sway as q; q.help(); print(q.__file__)') >"$work/editable/told"
    expect_match "the help" 'q\.submit_job\(' "$work/editable/told"
    expect_match "where it is" "^$work/client/src/sway/" "$work/editable/told"
}

install_into() { "$1" -m pip --python "$2/bin/python" install -q "$3"; } # PYTHON ENVIRONMENT WHAT

lint_client() {
    cd "$work/client"
    "$work/linters/bin/ruff" format --check --no-cache .
    "$work/linters/bin/ruff" check --no-cache .
    PYTHONPATH=$work/pytest "$work/linters/bin/mypy" --cache-dir /dev/null
}

test_clients() {
    local version pids=() status=0
    while read -r version _; do
        if grep -q "^$version " <(sed -n '1p;$p' "$work/pythons"); then
            client_tests "$version" &
        else
            client_tests "$version" -m "not live" &
        fi
        pids+=($!)
    done <"$work/pythons"
    wait_for "${pids[@]}" || status=$?
    tail -n 20 "$work"/log/client-*
    return $status
}

client_tests() { # VERSION [ARGUMENTS...]
    local version=$1
    shift
    cd "$work/client"
    PYTHONPATH=$work/pytest "$work/python-$version/bin/python" -m pytest -p no:cacheprovider -r s \
        --basetemp "$work/tests-$version" "$@" >"$work/log/client-$version" 2>&1
    # A test that is left out for want of a worker would be none.
    expect_equal "skipped for want of a worker" 0 "$(grep -c 'integration_test.sh python' "$work/log/client-$version" || true)"
}

test_notebooks() {
    local status=0
    cd "$work/client"
    PYTHONPATH=$work/pytest "$work/jupyter/bin/python" -m pytest -p no:cacheprovider -r s \
        --basetemp "$work/tests-jupyter" tests/test_notebooks.py tests/test_display.py tests/test_queue.py \
        >"$work/log/client-jupyter" 2>&1 || status=$?
    tail -n 20 "$work/log/client-jupyter"
    expect_equal "skipped" 0 "$(grep -c ^SKIPPED "$work/log/client-jupyter" || true)"
    return $status
}

wait_for() { # PID...: all of them, also if one fails
    local pid status=0
    for pid in "$@"; do wait "$pid" || status=$?; done
    return $status
}
