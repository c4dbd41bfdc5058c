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
    check "the fileserver is told of the worker" know_worker worker-users
    check "an owner stores an image and data with a token of her own, the same once" ada_stores
    check "and mounts the image, and runs a job on data" ada_reads
    check "another owner sees nothing of it, also by its digests" bob_sees_nothing
    check "nobody stores in names of others or of the library" foreign_names
    check "who was revoked stores nothing any more" bob_is_revoked
    check "a submitter stores nothing" refused_for sue 'scope export' data add table "$work/users/table.csv"
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

know_worker() { # NAME
    stop fileserver
    start_fileserver fileserver "$store" --worker-key "$work/$1/pass-key.pub"
}

ada_stores() {
    local dir=$work/users
    python3 "$root/integration/make_image.py" "$dir/image" --files 2 --size 300000 --seed ada
    printf 'a,b\n1,2\n' >"$dir/table.csv"
    as ada export --from "oci:$dir/image" --name small --no-trace --json >"$dir/first"
    as ada export --from "oci:$dir/image" --name small --no-trace --json >"$dir/second"
    expect_equal "blobs sent the second time" "true 0 true" "$(jq -r '"\(.new_blobs > 2) "' "$dir/first")$(jq -r '"\(.new_blobs) \(.bytes_sent == 0)"' "$dir/second")"
    as ada data add table "$dir/table.csv" >"$dir/table"
    # The token says whose they are, and not the name in the environment.
    sway_refs >"$dir/refs"
    grep -qx images/ada/small:latest "$dir/refs" && grep -qx data/ada/table "$dir/refs"
}

# All refs, as the operator sees them.
sway_refs() {
    curl -fsS -H "authorization: Bearer $SWAY_TOKEN" "$FILESERVER_URL/v1/refs" | jq -r '.refs[].name'
}

ada_reads() {
    local dir=$work/users
    SWAY_TOKEN=$(cat "$dir/ada") mount_image small "$dir/mount"
    expect_equal "a file" ada "$(cat "$dir/mount/seed")"
    stop mount INT
    echo 'print(open("/data/table.csv").read(), end="")' >"$dir/read.py"
    expect_equal "the data" $'a,b\n1,2' "$(cd "$dir" && as ada run --image numpy --data table.csv read.py 2>/dev/null)"
}

bob_sees_nothing() {
    local dir=$work/users pass manifest blobs=$FILESERVER_URL/v1/blobs
    sway user add bob --role owner && sway token add bob >"$dir/bob"
    refused_for bob 'no image' run --image ada/small "$dir/app.py"
    refused_for bob 'scope admin' mount ada/small "$dir/mount"
    pass=$(curl -fsS -H "authorization: Bearer $(cat "$dir/bob")" -H 'content-type: application/json' -d '{}' "$WORKER_URL/v1/passes" | jq -r .pass)
    bob_asks() { curl -sS -m 30 -H "authorization: Bearer $pass" -H 'content-type: application/json' "$@"; }
    expect_equal "refs of ada" 0 "$(bob_asks "$FILESERVER_URL/v1/refs" | jq '[.refs[] | select(.name | contains("/ada/"))] | length')"
    expect_equal "a ref of ada" ref_not_found "$(bob_asks "$FILESERVER_URL/v1/refs/images/ada/small:latest" | jq -r .error.code)"
    for manifest in "$(jq -r .manifest "$dir/first")" "$(cat "$dir/table")"; do
        expect_equal "missing" "$manifest" "$(bob_asks -d "{\"digests\": [\"$manifest\"]}" "$blobs/missing" | jq -r '.digests[]')"
        expect_equal "a blob" scope_missing "$(bob_asks "$blobs/$manifest" | jq -r .error.code)"
        # The header of a frame of no bytes.
        expect_equal "bytes fetched" 28 "$(bob_asks -d "{\"digests\": [\"$manifest\"]}" "$blobs/fetch" | wc -c)"
        expect_equal "a ref" blob_not_found "$(bob_asks -X PUT -d "{\"digest\": \"$manifest\"}" "$FILESERVER_URL/v1/refs/data/bob/taken" | jq -r .error.code)"
    done
}

foreign_names() {
    refused_for ada 'scope admin' export --from "oci:$work/users/image" --name library/small --no-trace
    refused_for ada 'scope admin' export --from "oci:$work/users/image" --name bob/small --no-trace
    ! sway_refs | grep -E '^images/(library|bob)/small:'
}

bob_is_revoked() {
    sway user revoke bob
    refused_for bob 'revoked' data add table "$work/users/table.csv"
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
