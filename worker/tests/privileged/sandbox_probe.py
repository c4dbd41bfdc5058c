"""Tells of its container all that could differ by who created it: one JSON object."""

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import sys

# Ids of threads and processes, and what was used so far.
OWN = ("Pid", "Tgid", "NStgid", "NSpid", "NSpgid", "NSsid", "PPid", "Vm", "Rss", "voluntary",
       "nonvoluntary", "SigQ", "FDSize")
# Those that end or stop whoever calls them.
ENDS = {15, 34, 56, 57, 58, 60, 231, 435}


def lines(path):
    with open(path) as file:
        return file.read().splitlines()


def status(path):
    """What must be equal. Two signals are C libraries' own; runc keeps what it inherits of them."""
    own = 1 << 31 | 1 << 32
    kept = [line.split("\t", 1) for line in lines(path) if not line.startswith(OWN)]
    return [[name, f"{int(value, 16) & ~own:x}" if name.startswith("Sig") else value]
            for name, value in kept]


def entry(path):
    found = os.lstat(path)
    device = found.st_rdev if stat.S_ISCHR(found.st_mode) else None
    link = os.readlink(path) if stat.S_ISLNK(found.st_mode) else None
    return [oct(found.st_mode), found.st_uid, found.st_gid, device, link]


def reading(path):
    try:
        if os.path.isdir(path):
            return sorted(os.listdir(path))
        with open(path, "rb") as file:
            return bool(file.read(64))
    except OSError as error:
        return error.errno


def writing(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
        return 0
    except OSError as error:
        return error.errno


def interface(name, request):
    with socket.socket() as asking:
        answer = fcntl.ioctl(asking, request, name.encode().ljust(40, b"\0"))
        return answer[16:24].hex()


libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def answer(number):
    """What a call with senseless arguments is answered: in a process of its own."""
    child = os.fork()
    if child == 0:
        nonsense = [ctypes.c_long(-1)] * 6
        failed = libc.syscall(ctypes.c_long(number), *nonsense) == -1
        # Not what Python does at its end: the call may have changed what that needs.
        os._exit(ctypes.get_errno() if failed else 0)
    return os.waitpid(child, 0)[1]


signal.signal(signal.SIGINT, signal.SIG_DFL)
told = {
    "status": status("/proc/self/status"),
    "first": status("/proc/1/status"),
    "ids": [os.getppid(), os.getsid(0), os.getpgid(0) == os.getpid(), os.getresuid(), os.getresgid()],
    "mountinfo": [line.split(" ", 2)[2] for line in lines("/proc/self/mountinfo")],
    "cgroup": lines("/proc/self/cgroup"),
    "limits": lines("/proc/self/limits"),
    "rlimits": {name: resource.getrlimit(getattr(resource, name))
                for name in dir(resource) if name.startswith("RLIMIT_")},
    "maps": [[line.split() for line in lines(f"/proc/self/{name}")]
             for name in ("uid_map", "gid_map", "setgroups")],
    "oom": lines("/proc/self/oom_score_adj"),
    "namespaces": sorted(os.listdir("/proc/self/ns")),
    "environment": sorted(os.environ.items()),
    "arguments": [sys.argv[0], lines("/proc/1/cmdline")],
    "executable": [os.readlink("/proc/self/exe")],
    "descriptors": [[name, os.readlink(f"/proc/self/fd/{name}").split(":")[0]]
                    for name in ("0", "1", "2")] + [len(os.listdir("/proc/self/fd"))],
    "root": {name: entry(os.path.join("/", name)) for name in sorted(os.listdir("/"))},
    "devices": {name: entry(os.path.join("/dev", name)) for name in sorted(os.listdir("/dev"))},
    "pts": sorted(os.listdir("/dev/pts")),
    "proc": {name: [reading(path), writing(path)]
             for name in sorted(os.listdir("/proc")) if not name.isdigit()
             for path in [os.path.join("/proc", name)]
             if name not in ("kmsg", "loadavg", "locks", "uptime", "stat", "vmstat", "schedstat")},
    "sysctl": {name: [reading(path), writing(path)]
               for folder in ("kernel", "net/ipv4", "user", "fs/mqueue", "vm")
               for name in sorted(os.listdir(f"/proc/sys/{folder}"))
               for path in [f"/proc/sys/{folder}/{name}"] if os.path.isfile(path)},
    "host": [socket.gethostname(), os.uname().release, lines("/etc/hostname")],
    "lo": [[name for _, name in socket.if_nameindex()], interface("lo", 0x8913)[:4],
           lines("/proc/net/if_inet6"), interface("lo", 0x8915)],
    "directory": [os.getcwd(), oct(os.umask(0))],
    "affinity": sorted(os.sched_getaffinity(0)),
    "scheduler": [os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)],
}
# Numbers that every libseccomp of the last years knows; beyond them what is newer than any, another
# ABI, and what is none.
if os.uname().machine == "x86_64":
    numbers = [*range(335), *range(424, 440), 1000, 0x40000000 | 39, 0xFFFFFFFF, -1]
    told["calls"] = {number: answer(number) for number in numbers if number not in ENDS}
sys.stdout.write(json.dumps(told) + "\n")
# In one piece.
sys.stdout.write("all told\n")
sys.stdin.read()
