# Two accounts beside the operator, with the commands that people type.

check_users() {
    subject "Users and tokens"
    check "a worker starts" fresh_worker worker-users
    mkdir -p "$work/users"
    echo 'print("for ada")' >"$work/users/app.py"
    check "ada has an image" image_of_ada numpy
    check "users are added and get tokens" two_users
    check "each token says who its holder is" expect_equal names "ada owner, sue submitter" \
        "$(as ada whoami --json | jq -r '.user + " " + .role'), $(as sue whoami --json | jq -r '.user + " " + .role')"
    check "an owner runs a job" expect_equal output "for ada" "$(as ada run --image numpy "$work/users/app.py" 2>/dev/null)"
    check "and sees it" expect_equal runs 1 "$(as ada runs --json | jq length)"
    check "another user does not, nor its output" sees_nothing
    check "a submitter runs nothing" refused_for sue 'scope run' run --image ada/numpy "$work/users/app.py"
    check "only the operator adds users" refused_for ada 'scope admin' user add eve
    check "a revoked token opens nothing" revoked
}

# The image that the tester has, under ada's name: the operator may write it.
image_of_ada() { # NAME
    local digest
    digest=$(sway images --json | jq -r --arg name "tester/$1:latest" '.[] | select(.name == $name) | .manifest')
    curl -fsS -X PUT -H "authorization: Bearer $SWAY_TOKEN" -H 'content-type: application/json' \
        -d "{\"digest\": \"$digest\"}" "$FILESERVER_URL/v1/refs/images/ada/$1:latest"
}

two_users() {
    sway user add ada --role owner && sway user add sue || return
    sway token add ada --label integration >"$work/users/ada"
    sway token add sue --expires 1h >"$work/users/sue"
    grep -qE '^sway_[0-9a-f]{12}_[0-9a-f]{64}$' "$work/users/ada"
    ! grep -rqF "$(cut -d_ -f3 "$work/users/ada")" "$work/worker-users" "$work/log/worker-users"
}

as() { # USER ARGUMENTS...: sway with the user's token
    local user=$1
    shift
    SWAY_TOKEN=$(cat "$work/users/$user") sway "$@"
}

sees_nothing() {
    expect_equal runs 0 "$(as sue runs --json | jq length)"
    refused_for sue 'no run' runs 1
    refused_for sue 'no run' logs 1
}

refused_for() { # USER PATTERN ARGUMENTS...
    local user=$1 pattern=$2
    shift 2
    ! as "$user" "$@" >"$work/users/told" 2>&1 || { echo "it was not refused"; return 1; }
    grep -E "$pattern" "$work/users/told" || { cat "$work/users/told"; return 1; }
}

revoked() {
    as sue token revoke "$(as sue whoami --json | jq -r .token)"
    refused_for sue 'revoked' whoami
    sway user revoke ada
    refused_for ada 'revoked' runs
}
