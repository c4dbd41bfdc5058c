#!/usr/bin/env bash
# Makes what the test of the page needs ready, once: Playwright in an environment of its own, and a
# Chromium. Prints the Python that has Playwright, and the browser's path, a line each.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# What it is tried with; another version speaks to another Chromium.
playwright=1.65.2
python=$setup_cache/playwright-$playwright/bin/python

if ! "$python" -c 'import playwright' 2>/dev/null; then
    say "installing Playwright $playwright"
    mkdir -p "$setup_cache"
    python3 -m venv --clear "$setup_cache/playwright-$playwright" >&2
    "$python" -m pip install --quiet --disable-pip-version-check "playwright==$playwright" >&2
fi

browser=
for name in chromium chromium-browser google-chrome; do
    browser=$(command -v "$name") && break
done
[ -n "$browser" ] || fail "no Chromium here: install it, or run setup/machine.sh test"
printf '%s\n' "$python" "$browser"
