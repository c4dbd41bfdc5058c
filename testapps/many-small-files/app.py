"""Walks them all, stats them all, reads one in a hundred."""

import os

count = size = read = 0
for directory, folders, files in os.walk("/files"):
    folders.sort()
    for name in sorted(files):
        path = os.path.join(directory, name)
        size += os.lstat(path).st_size
        count += 1
        if int(name) % 100 == 0:
            with open(path) as file:
                read += file.readline() == f"file {int(name)}\n"

print(f"{count} files, {size} bytes, {read} read")
