# Bad input: each a clear message, an exit code that is not 0, and nothing changed.

check_refusals() {
    subject "Bad input"
    check "a worker starts" fresh_worker worker-refusing
    images_and_blobs >"$work/state-before"
    mkdir -p "$work/bad/empty" "$work/bad/broken" "$work/bad/dir"

    refuses "an export without a Dockerfile" 'Dockerfile' sway export "$work/bad/empty"
    mkdir -p "$work/bad/nothing"
    refuses "an export without a builder" 'docker.*podman.*buildah' env "PATH=$work/bad/nothing" "$bin/sway" export "$root/testapps/numpy" --name bad
    printf 'ARG BASE\nFROM ${BASE}\nRUN echo told you so >&2 && false\n' >"$work/bad/broken/Dockerfile"
    refuses "a build that fails" 'told you so|build' sway export "$work/bad/broken" "${base_arguments[@]}"

    python3 "$root/integration/make_image.py" "$work/bad/good" --files 2 --size 100000
    tar -C "$work/bad/good" -cf "$work/bad/whole.tar" .
    head -c 150000 "$work/bad/whole.tar" >"$work/bad/half.tar"
    refuses "a truncated archive" 'truncated|end|incomplete|missing|unexpected|short' sway export --from "oci-archive:$work/bad/half.tar" --name bad
    refuses "an archive that is not there" 'nowhere' sway export --from "oci-archive:$work/bad/nowhere.tar" --name bad
    python3 "$root/integration/make_image.py" "$work/bad/climbing" --entry ../../climbed
    refuses "an archive with ../" '\.\.' sway export --from "oci:$work/bad/climbing" --name bad
    python3 "$root/integration/make_image.py" "$work/bad/rooted" --entry /etc/planted
    refuses "an archive with absolute paths" 'absolute|/etc/planted' sway export --from "oci:$work/bad/rooted" --name bad
    refuses "a digest that does not match, in an archive" 'digest|sha256|match' sway export --from "oci:$(wrong_layer)" --name bad

    echo 'print("never")' >"$work/bad/app.py"
    refuses "an unknown image" 'nonesuch' sway run --image nonesuch "$work/bad/app.py"
    refuses "a script that is not there" 'missing\.py' sway run --image numpy "$work/bad/missing.py"
    refuses "a folder without an entry" 'main\.py|run\.sh' sway run --image numpy "$work/bad/dir"
    for name in '../numpy' '/etc' 'a//b' $'tab\there' $'new\nline' 'UPPER CASE'; do
        refuses "the image name $(printf %q "$name")" 'name|image|invalid' sway run --image "$name" "$work/bad/app.py"
        refuses "the name $(printf %q "$name") for an export" 'name|image|invalid' sway export --from "oci:$work/bad/good" --name "$name"
    done
    for limit in '--memory 1T' '--cpus 1000' '--pids 1000000' '--timeout 10000000'; do
        # shellcheck disable=SC2086
        refuses "$limit, beyond the maxima" 'limit|grants|memory|cpus|pids|timeout' sway run --image numpy $limit "$work/bad/app.py"
    done
    check "a worker that can't be reached is exit code 69" unreachable_worker
    check "a fileserver that can't be reached is exit code 69" unreachable_fileserver
    check "a wrong token is refused" wrong_token

    check "malformed JSON is 400 with a reason" answers 400 POST "$WORKER_URL/v1/jobs" '{"image":'
    check "an unknown field is 400 with a reason" answers '400|422' POST "$WORKER_URL/v1/jobs" '{"image":"numpy","program":{"kind":"command","argv":["true"]},"cpu":1}'
    check "a NUL in an argument is 400 with a reason" answers '400|422' POST "$WORKER_URL/v1/jobs" '{"image":"numpy","program":{"kind":"command","argv":["a\u0000b"]}}'
    check "a script's path out of its place is 400" answers '400|422' POST "$WORKER_URL/v1/jobs" '{"image":"numpy","program":{"kind":"script","file":{"path":"../app.py","content":""}}}'
    check "a blob that does not match its digest is refused, and not stored" wrong_digest
    check "names of refs with .. and control characters are refused" wrong_refs

    images_and_blobs >"$work/state-after"
    check "and nothing has changed" diff "$work/state-before" "$work/state-after"
}

images_and_blobs() {
    sway images --json
    find "$store" -type f -path '*blobs*' ! -path '*tmp*' | sort | sha1sum
}

refuses() { # SENTENCE PATTERN COMMAND...
    local sentence=$1 pattern=$2
    shift 2
    check "$sentence is refused with a reason" refused_with "$pattern" "$@"
}

refused_with() {
    local pattern=$1 status=0
    shift
    timeout 60 "$@" >"$work/refused.out" 2>"$work/refused" || status=$?
    cat "$work/refused"
    [ $status != 0 ] || { echo "exit code 0"; return 1; }
    [ $status != 124 ] || { echo "it hung"; return 1; }
    # It is refused for what it is, not for how it was asked.
    if grep -qE 'panicked at|unexpected argument' "$work/refused"; then return 1; fi
    expect_match "the message" "$pattern" "$work/refused"
}

wrong_layer() {
    local dir=$work/bad/wrong layer
    cp -r "$work/bad/good" "$dir"
    layer=$(find "$dir/blobs/sha256" -size +100k)
    printf 'X' | dd of="$layer" bs=1 seek=50000 conv=notrunc status=none
    echo "$dir"
}

unreachable_worker() {
    WORKER_URL=http://127.0.0.1:9 expect_exit 69 sway run --image numpy "$work/bad/app.py"
    expect_match "the message" '127\.0\.0\.1:9' "$work/refused"
}

unreachable_fileserver() {
    FILESERVER_URL=http://127.0.0.1:9 expect_exit 69 sway export --from "oci:$work/bad/good" --name bad
    expect_match "the message" '127\.0\.0\.1:9' "$work/refused"
}

wrong_token() {
    SWAY_TOKEN=0000000000000000000000000000000000000000000000000000000000000000 refused_with 'token|authori' sway run --image numpy "$work/bad/app.py"
    expect_equal "without a token" 401 "$(curl -s -o /dev/null -w '%{http_code}' "$WORKER_URL/v1/runs")"
    expect_equal "without a token" 401 "$(curl -s -o /dev/null -w '%{http_code}' "$FILESERVER_URL/v1/refs")"
}

answers() { # STATUS METHOD URL BODY
    request "$2" "$3" -H 'Content-Type: application/json' --data-binary "$4" >"$work/answer"
    cat "$work/answer"
    expect_match "status" "^($1)\$" "$work/answer"
    head -n -1 "$work/answer" | jq -e '.error.code and .error.message'
}

wrong_digest() {
    local digest=0123456789012345678901234567890123456789
    request PUT "$FILESERVER_URL/v1/blobs/$digest" -H 'Content-Type: application/octet-stream' --data-binary 'other bytes' >"$work/answer"
    cat "$work/answer"
    expect_match "status" '^4..$' "$work/answer"
    request GET "$FILESERVER_URL/v1/blobs/$digest" >"$work/answer"
    expect_match "status" '^404$' "$work/answer"
}

wrong_refs() {
    local name
    for name in 'images/..%2f..%2fescape' 'images/a/%00' 'images/a/%0a' 'images/a/%2e%2e/b'; do
        request PUT "$FILESERVER_URL/v1/refs/$name" -H 'Content-Type: application/json' \
            --data-binary '{"digest":"0123456789012345678901234567890123456789"}' --path-as-is >"$work/answer"
        echo "$name: $(tail -1 "$work/answer")"
        expect_match "status" '^4..$' "$work/answer"
    done
}
