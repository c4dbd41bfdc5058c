# What there is to do in this checkout. `just` alone lists it.

_default:
    @just --list

# Format, lints, documentation, dependencies.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
    cargo deny check licenses bans sources

# Tests that need no privileges.
test:
    cargo test --workspace

# Tests with real FUSE and real runc; root.
test-fuse:
    cargo test -p sway-worker -p sway-cli --features privileged --test privileged

# Everything, with the real programs; root. Takes --skip-export, --concurrent, and subjects.
integration *arguments:
    ./integration_test.sh {{ arguments }}

# Native against Sway; root.
bench *arguments:
    bench/run {{ arguments }}

# Both servers, until Ctrl-C.
up *arguments:
    cargo run --release -p sway-cli -- up {{ arguments }}

# From nothing to a first run; root.
demo:
    ./quickstart.sh
