"""Tries things that must not work, and says what the kernel answered."""

import ctypes
import errno
import os
import signal

_libc = ctypes.CDLL(None, use_errno=True)

# x86-64's numbers: libc has no names for most of these calls.
NUMBERS = {
    "ptrace": 101, "syslog": 103, "iopl": 172, "ioperm": 173, "personality": 135,
    "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "init_module": 175, "delete_module": 176,
    "quotactl": 179, "lookup_dcookie": 212, "clock_settime": 227, "kexec_load": 246,
    "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "vmsplice": 278,
    "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304,
    "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "clone": 56, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "memfd_secret": 447, "vhangup": 153,
}  # fmt: skip


def raw(number, *args):
    """A system call; a child that it makes ends at once."""
    ctypes.set_errno(0)
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = _libc.syscall(ctypes.c_long(number), *wide)
    return result, ctypes.get_errno()


def syscall(name, *args, label=None):
    result, error = raw(NUMBERS[name], *args)
    if result == 0 and name in ("clone", "clone3"):
        os._exit(0)
    report(label or name, "DONE" if result >= 0 else errno.errorcode[error])


def attempt(label, action):
    """A Python call; what it returns is told."""
    try:
        result = action()
    except OSError as error:
        report(label, errno.errorcode.get(error.errno, str(error)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        report(label, type(error).__name__)
    else:
        report(label, "DONE" if result is None else result)


def refused(label, action, answers):
    """A call that kernels refuse in different ways, one of `answers`, or with nothing at all."""
    try:
        result = action()
    except OSError as error:
        answer = errno.errorcode.get(error.errno, str(error))
    else:
        answer = "DONE" if result else "nothing"
    report(label, "refused" if answer in answers else answer)


def in_child(label, action):
    """What becomes of a process that does it."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        report(label, signal.Signals(os.WTERMSIG(status)).name)
    else:
        report(label, "DONE")


def report(label, answer):
    print(f"{label}: {answer}")
