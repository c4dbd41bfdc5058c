# The page, in a headless Chromium: page.py does what a person does, and looks at what it sees. Its
# screenshots are kept in target/page, for people.

check_page() {
    local browser=$work/browser shots=$root/target/page sentence result why
    subject "The page"
    check "a browser is there" make_browser "$browser"
    check "a worker starts" fresh_worker worker-page
    rm -rf "$shots" && mkdir -p "$shots"
    timeout -k 10 240 "$(sed -n 1p "$browser")" "$root/integration/page.py" \
        "$WORKER_URL" tester/numpy "$(sed -n 2p "$browser")" "$shots" >"$work/page" 2>"$work/log/page" </dev/null
    echo $? >"$work/page-status"
    while IFS=$'\t' read -r result sentence why; do
        printf '%s\n' "$why" >"$work/check.log"
        if [ "$result" = ok ]; then ok "$sentence"; else not_ok "$sentence" "$work/check.log"; fi
    done <"$work/page"
    # A test that breaks off has not failed by its own count.
    check "the browser's test came to its end" ended_well
}

make_browser() { "$root/setup/browser.sh" >"$1"; }

ended_well() {
    tail -5 "$work/log/page"
    grep -q 'the console tells' "$work/page" || { echo "exit code $(cat "$work/page-status")"; return 1; }
}
