"""Runs one command in a network of its own, and writes down what it tried to reach.

It is a program by itself, which `mmstack/hermetic.py` starts through `unshare`, so it needs the standard library
alone. The loopback interface is up, for what talks to itself; nothing else is there. The host name is `localhost`,
which can be found without asking anybody.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

# <linux/sockios.h>, <linux/if.h>
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
# Of one network alone, see SNMP counters in the kernel's documentation. A datagram or connection for which there is no
# route leaves nothing else behind, and neither does a name server on this machine that is not there.
TRIED = {"Ip OutNoRoutes", "Ip6 OutNoRoutes", "Udp NoPorts", "Udp6 NoPorts"}
REFUSED = {"Tcp AttemptFails"}
CANNOT_START = 127


def main(report: int, words: list[str]) -> int:
    """Run a command and return its exit status, having written `ready` and then two counts to the file descriptor.

    The counts are how often it tried to reach another machine, and how often it was refused a connection to this one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
    socket.sethostname("localhost")
    with open(report, "w", encoding="ascii") as told:
        told.write("ready\n")
        told.flush()
        signal.signal(signal.SIGTERM, _outlive)
        try:
            status = subprocess.call(words)  # noqa: S603 - the words are mmstack's
        except OSError as error:
            told.write(f"unstartable {error.errno}\n")
            return CANNOT_START
        counts = counters()
        told.write(f"{sum(counts[name] for name in TRIED)} {sum(counts[name] for name in REFUSED)}\n")
    return status


def counters() -> dict[str, int]:
    """Return what the kernel has counted in this network, by protocol and name."""
    lines = Path("/proc/self/net/snmp").read_text(encoding="ascii").splitlines()
    found = dict.fromkeys(TRIED | REFUSED, 0)
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        protocol, *columns = names.split()
        numbers = map(int, values.split()[1:])
        found |= {f"{protocol[:-1]} {name}": number for name, number in zip(columns, numbers, strict=True)}
    six = Path("/proc/self/net/snmp6")
    for line in six.read_text(encoding="ascii").splitlines() if six.exists() else ():
        name, value = line.split()
        protocol, six_, what = name.partition("6")
        found[f"{protocol}{six_} {what}"] = int(value)
    return found


def _outlive(_number: int, _frame: object) -> None:
    """Wait for the command, which was told to stop as well."""


if __name__ == "__main__":
    status = main(int(sys.argv[1]), sys.argv[2:])
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
