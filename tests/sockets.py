"""Who listens where."""

import contextlib
import os
from pathlib import Path


def listening():
    """Addresses (hexadecimal) on which this process and those below it listen for TCP; other tests run beside this one."""
    parents, sockets = {}, set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    ours = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for link in (link for process in ours for link in Path(f"/proc/{process}/fd").glob("*")):
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(link))
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
