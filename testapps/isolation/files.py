"""Tries files that are none of a job's business."""

import os
import subprocess

from attempt import attempt, refused, report


def write(path):
    with open(path, "r+b", buffering=0) as file:
        file.write(b"h")


def create(path):
    with open(path, "x"):
        pass


def size(path):
    with open(path, "rb") as file:
        return f"{len(file.read(4096))} bytes"


# Not every kernel has all of these.
NOT_FOR_JOBS = {"EACCES", "EPERM", "EROFS", "ENOENT", "nothing"}


def write_to(path, text):
    with open(path, "wb", buffering=0) as file:
        file.write(text)
    return True


def read(path):
    with open(path, "rb", buffering=0) as file:
        return file.read(4096)


for name, text in {
    "sysrq-trigger": b"h",
    "sys/kernel/core_pattern": b"|/tmp/x",
    "sys/kernel/randomize_va_space": b"0",
    "sys/vm/overcommit_memory": b"1",
    "self/oom_score_adj": b"-1000",
}.items():
    refused(f"write /proc/{name}", lambda: write_to(f"/proc/{name}", text), NOT_FOR_JOBS)
for name in ("kcore", "kallsyms", "keys", "timer_list", "kmsg", "interrupts"):
    refused(f"read /proc/{name}", lambda: read(f"/proc/{name}"), NOT_FOR_JOBS)
attempt("list /sys", lambda: ",".join(os.listdir("/sys")) or "empty")
attempt("list /proc/1/root/sys", lambda: ",".join(os.listdir("/proc/1/root/sys")) or "empty")

for path in ("/new", "/usr/new", "/etc/new", "/dev/new", "/code/new"):
    attempt(f"create {path}", lambda: create(path))
attempt("write /etc/passwd", lambda: write("/etc/passwd"))
attempt("write /code/files.py", lambda: write("/code/files.py"))
attempt("read /etc/shadow", lambda: size("/etc/shadow"))
attempt("remove /usr/bin/env", lambda: os.remove("/usr/bin/env"))
attempt("chmod /etc/passwd", lambda: os.chmod("/etc/passwd", 0o666))
attempt("mknod", lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0)))

# What a hostile image brings along: see the test that makes it.
attempt("block device of the image", lambda: size("/opt/hostile/disk"))
attempt("/dev/mem of the image", lambda: size("/opt/hostile/mem"))
whoami = ["/opt/hostile/setuid-python", "-c", "import os; print(os.geteuid() == os.getuid())"]
attempt("setuid program keeps the user", lambda: subprocess.check_output(whoami, text=True).strip())

report("devices", ",".join(sorted(os.listdir("/dev"))))
