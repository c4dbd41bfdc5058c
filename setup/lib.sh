# Sourced by the scripts that set something up: how they speak, and where they keep what is
# made once. All of it goes to stderr, so that a script's stdout holds only its result.

say() { printf '%s\n' "$*" >&2; }
step() { printf '\n==> %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# What is expensive to make and the same for every script: the base image.
setup_cache=${SWAY_SETUP_CACHE:-/var/cache/sway-test}

# Makes requests from the worker's /openapi.json; in a Python environment of its own.
schemathesis_version=4.32.5
schemathesis=$setup_cache/schemathesis-$schemathesis_version/bin/schemathesis
