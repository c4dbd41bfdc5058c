# What a mounted image is: the tree that another tool unpacks, loaded only as far as it is read.

check_image() {
    subject "The mounted image"
    check "a difficult image lists as umoci unpacks it" difficult_image_is_faithful
    check "walking and statting a whole image fetches no content" walk_fetches_nothing
    check "import scipy.linalg from the 500 MB image moves at most 20 MB, on cold caches" scipy_is_lazy
    check "pages of a 256 MiB file cost no more than their chunks, on cold caches" big_file_is_lazy
}

# Mounts an image in the background, as a server of its own.
mount_image() { # IMAGE DIR
    mkdir -p "$2"
    sway mount "$1" "$2" >>"$work/log/mount" 2>&1 </dev/null &
    echo $! >"$work/pid/mount"
    wait_until 30 mountpoint -q "$2" || { tail "$work/log/mount"; return 1; }
}

difficult_image_is_faithful() {
    local dir=$work/difficult
    mkdir -p "$dir"
    "$examples/difficult-image" "$dir/image"
    umoci unpack --image "$dir/image:latest" "$dir/bundle" >"$dir/umoci.log" 2>&1 || { tail "$dir/umoci.log"; return 1; }
    sway export --from "oci:$dir/image" --name difficult
    mount_image difficult "$dir/mount"
    "$examples/compare-trees" "$dir/bundle/rootfs" "$dir/mount"
    stop mount INT
    expect_equal "mounts left" "" "$(mounts_below "$dir")"
}

# The same imports with and without the walk, each on a worker that has never seen the image.
walk_fetches_nothing() {
    local walk
    cat >"$work/walk.py" <<'END'
import os
import sys

entries = 0
if sys.argv[1] == "walk":
    for directory, folders, files in os.walk("/", topdown=True):
        if directory == "/":
            folders[:] = [name for name in folders if name not in ("proc", "dev", "sys")]
        for name in folders + files:
            os.lstat(os.path.join(directory, name))
            entries += 1
print(entries)
END
    for walk in no walk; do
        fresh_worker worker-$walk "${on_demand[@]}"
        sway run --image scipy --timeout 60 --cpus 1 "$work/walk.py" $walk >"$work/walk-$walk"
        last_run tester >"$work/walk-$walk.json"
        jq -c '{server_fetches, bytes_fetched, mount_ms, duration_ms}' "$work/walk-$walk.json"
    done
    cat "$work/walk-walk"
    [ "$(cat "$work/walk-walk")" -gt 15000 ] || { echo "only $(cat "$work/walk-walk") entries"; return 1; }
    expect_at_most "chunks fetched by the walk" "$(jq .server_fetches "$work/walk-no.json")" \
        "$(jq .server_fetches "$work/walk-walk.json")"
}

scipy_is_lazy() {
    local manifest
    echo 'import scipy.linalg; print(scipy.linalg.__name__)' >"$work/linalg.py"
    fresh_worker worker-linalg "${on_demand[@]}"
    expect_equal "output" scipy.linalg "$(sway run --image scipy --timeout 60 --cpus 1 "$work/linalg.py")"
    # The manifest is charged to the run, too: 0.7 MB.
    manifest=$(last_run tester manifest)
    manifest=$(stat -c %s "$store/blobs/${manifest:0:2}/${manifest:2}")
    expect_at_most "bytes of files fetched" 20000000 "$(($(last_run tester bytes_fetched) - manifest))"
}

big_file_is_lazy() {
    fresh_worker worker-big "${on_demand[@]}"
    run_and_judge big-file
    expect_at_most "bytes fetched" 12000000 "$(last_run app-big-file bytes_fetched)"
    expect_at_most "the worker's memory in kB" 200000 \
        "$(awk '/^VmHWM/ { print $2 }' "/proc/$(cat "$work/pid/worker-big")/status")"
}
