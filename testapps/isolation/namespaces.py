"""Tries to make, join and rearrange namespaces and mounts."""

import ctypes
import os
import signal
import threading

from attempt import attempt, report, syscall

KINDS = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
}

for kind, flag in KINDS.items():
    syscall("unshare", flag, label=f"unshare {kind}")
for kind, flag in KINDS.items():
    syscall("clone", flag | signal.SIGCHLD, 0, 0, 0, 0, label=f"clone {kind}")
for kind, flag in KINDS.items():
    arguments = (ctypes.c_uint64 * 8)(flag, 0, 0, 0, signal.SIGCHLD)
    syscall("clone3", arguments, ctypes.sizeof(arguments), label=f"clone3 {kind}")
syscall("unshare", KINDS["user"] | KINDS["mount"], label="unshare user and mount")
for kind in ("user", "mnt", "net", "pid"):
    namespace = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
    syscall("setns", namespace, 0, label=f"setns {kind}")

tmpfs = ctypes.c_char_p(b"tmpfs")
at = ctypes.c_char_p(b"/tmp")
root = ctypes.c_char_p(b"/")
syscall("mount", tmpfs, at, tmpfs, 0, 0, label="mount tmpfs")
syscall("mount", root, at, 0, 4096, 0, label="mount --bind")
syscall("mount", 0, root, 0, 32, 0, label="mount -o remount,rw /")
syscall("umount2", ctypes.c_char_p(b"/proc/sysrq-trigger"), 2, label="umount")
syscall("pivot_root", root, at)
syscall("chroot", at)
syscall("fsopen", tmpfs, 0)
syscall("fspick", -100, root, 0)
syscall("open_tree", -100, root, 1)
syscall("move_mount", -100, root, -100, at, 0)
syscall("mount_setattr", -100, root, 0, 0, 0)

# What must go on working: threads and processes.
thread = threading.Thread(target=lambda: None)
attempt("a thread", lambda: (thread.start(), thread.join()) and None)
child = os.fork()
if child == 0:
    os._exit(7)
report("a process", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
