"""Tries to reach the host's processes, other jobs and the network.

Arguments: a process id of the host, a TCP port that listens on the host's loopback, the name of
an abstract socket that listens on the host.
"""

import os
import signal
import socket
import sys

from attempt import attempt, refused, report

pid, port, abstract = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

attempt("signal a process of the host", lambda: os.kill(pid, 0))
attempt("kill a process of the host", lambda: os.kill(pid, signal.SIGKILL))
attempt("its memory", lambda: open(f"/proc/{pid}/mem") and None)
attempt("its root", lambda: os.listdir(f"/proc/{pid}/root"))
# Process 1 is the container's init.
processes = {int(name) for name in os.listdir("/proc") if name.isdigit()}
report("other processes", sorted(processes - {1, os.getpid()}))


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(address)


# With and without IPv6 in the kernel.
UNREACHABLE = {"ENETUNREACH", "EAFNOSUPPORT", "EADDRNOTAVAIL"}

report("interfaces", [name for _, name in socket.if_nameindex()])
attempt("loopback of the host", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
refused("an address of the internet", lambda: connect(socket.AF_INET, ("192.0.2.1", 80)), UNREACHABLE)
refused("the metadata service", lambda: connect(socket.AF_INET, ("169.254.169.254", 80)), UNREACHABLE)
refused("IPv6", lambda: connect(socket.AF_INET6, ("2001:db8::1", 80)), UNREACHABLE)
try:
    report("a name", socket.getaddrinfo("example.org", 80))
except socket.gaierror:
    report("a name", "unknown")
attempt("an abstract socket of the host", lambda: connect(socket.AF_UNIX, "\0" + abstract))
for path in ("/run/docker.sock", "/var/run/docker.sock", "/run/systemd/private", "/run/sway"):
    attempt(path, lambda: os.stat(path) and None)
attempt("files of others in /tmp", lambda: os.listdir("/tmp"))
