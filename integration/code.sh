# The code's own checks: format, lints, licences, and cargo's tests with and without privileges.

# Runs cargo's tests, which count one by one.
cargo_tests() { # SENTENCE ARGUMENTS...
    local sentence=$1 status=0 counts
    shift
    timeout -k 10 1800 cargo test --no-fail-fast "$@" >"$work/log/cargo-test" 2>&1 </dev/null || status=$?
    counts=$(awk '/^test result:/ { passed += $4; failed += $6 } END { print passed + 0, failed + 0 }' "$work/log/cargo-test")
    passed=$((passed + ${counts% *}))
    failed=$((failed + ${counts#* }))
    if [ $status = 0 ] && [ "$counts" != "0 0" ]; then
        ok "$sentence (${counts% *} tests)"
    else
        grep -E '^test .* FAILED$|^error|panicked at' "$work/log/cargo-test" | tail -15 >"$work/check.log"
        tail -10 "$work/log/cargo-test" >>"$work/check.log"
        not_ok "$sentence" "$work/check.log"
    fi
}

check_code() {
    local crate check_seconds=1800
    subject "The code"
    check "it is formatted" cargo fmt --all --check
    check "clippy finds nothing" cargo clippy -q --workspace --all-targets --all-features -- -D warnings
    check "the documentation builds without a warning" env RUSTDOCFLAGS=-Dwarnings cargo doc -q --workspace --no-deps
    # Advisories need a database that can't be had everywhere.
    check "licences, bans and sources of dependencies are allowed" cargo deny --log-level error check licenses bans sources
    cargo_tests "the tests pass without privileges" --workspace
    for crate in $(privileged_crates); do
        cargo_tests "the tests of $crate with real FUSE and real runc pass" -p "$crate" --features privileged --test privileged
    done
    SWAY_TEST_SANDBOX=sway cargo_tests "what isolates jobs does so without runc too" -p sway-worker \
        --features privileged --test privileged -- job:: job_data:: job_isolation:: job_on_mount:: pool::
}

privileged_crates() {
    cargo metadata --no-deps --format-version 1 |
        jq -r '.packages[] | select(any(.targets[]; .name == "privileged")) | .name'
}
