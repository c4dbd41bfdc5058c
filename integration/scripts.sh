# The other command of the README, as it stands there.

check_scripts() {
    subject "The scripts"
    check "quickstart.sh exports testapps/scipy and runs its app.py" quickstart
}

quickstart() {
    env -u SWAY_TOKEN -u FILESERVER_URL -u WORKER_URL -u SWAY_DATA -u SWAY_CONFIG -u SWAY_USERNAME \
        "$root/quickstart.sh" >"$work/quickstart.out" 2>"$work/quickstart.err" ||
        { cat "$work/quickstart.out" "$work/quickstart.err"; return 1; }
    expect_match "output" '^svd: u=\(100, 100\), s=\(100,\)$' "$work/quickstart.out"
    if pgrep -f 'sway up --data /tmp/sway-quickstart' >/dev/null; then
        echo "it left its servers behind"
        return 1
    fi
}
