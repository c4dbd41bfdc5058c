"""Tries to use up what all jobs share."""

import errno
import os
import resource

from attempt import attempt, report

BLOCK = b"\0" * (1 << 20)


def fill_with_bytes(directory):
    written = 0
    try:
        with open(f"{directory}/filling", "wb", buffering=0) as file:
            while written < 1 << 30:
                written += file.write(BLOCK)
        answer = "DONE"
    except OSError as error:
        answer = errno.errorcode[error.errno]
    os.remove(f"{directory}/filling")
    report(f"fill {directory}", f"{answer} after {written >> 20} MiB")


def fill_with_files(directory):
    made = 0
    try:
        while made < 1 << 20:
            os.close(os.open(f"{directory}/file-{made}", os.O_CREAT | os.O_WRONLY))
            made += 1
        answer = "DONE"
    except OSError as error:
        answer = errno.errorcode[error.errno]
    for number in range(made):
        os.remove(f"{directory}/file-{number}")
    report(f"files in {directory}", f"{answer} before {(made // 1024 + 1) * 1024}")


for place in ("/tmp", "/dev/shm"):
    fill_with_bytes(place)
    fill_with_files(place)


def sparse():
    with open("/tmp/sparse", "wb") as file:
        os.ftruncate(file.fileno(), 1 << 40)


attempt("a sparse file of 1 TiB", sparse)


def descriptors():
    held = []
    try:
        while len(held) < 1 << 20:
            held.append(os.dup(0))
    except OSError as error:
        return f"{errno.errorcode[error.errno]} below {(len(held) // 1024 + 1) * 1024}"
    finally:
        for descriptor in held:
            os.close(descriptor)
    return None


attempt("descriptors", descriptors)
for name in ("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_FSIZE"):
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    attempt(f"raise {name}", lambda: resource.setrlimit(kind, (hard + 1, hard + 1)))
attempt("nice -20", lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))


def fork_all():
    """Every process that can be had, at one time."""
    reader, writer = os.pipe()
    children = []
    try:
        while len(children) < 4096:
            child = os.fork()
            if child == 0:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            children.append(child)
        answer = "DONE"
    except OSError as error:
        answer = errno.errorcode[error.errno]
    os.close(writer)
    for child in children:
        os.waitpid(child, 0)
    return f"{answer} at {len(children) + 1}"


attempt("processes", fork_all)
