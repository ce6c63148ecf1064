"""Run a command and account for all its processes, however deep: `reaper.py REPORT COMMAND...`.

What `wait` tells of a process includes those of its descendants that were waited for, and no others. So this small
process makes itself the one that Linux gives orphans to (prctl(2), PR_SET_CHILD_SUBREAPER), and waits for whatever it
is given: in the end its own `RUSAGE_CHILDREN` holds every process that the command had. One exception is left: those
whose parent ignores SIGCHLD, which the kernel then forgets. Elsewhere than on Linux, orphans are missing.

Its exit code is zero when the command's is. REPORT is JSON: code, wall, cpu and peak_mb (see `limited.Ended`), and
orphans, the number of processes that outlived their parents; those that outlive the command by `GRACE` seconds are
killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
GRACE = 5.0


def main(report: str, command: list[str]) -> int:
    """Run it to its end; the exit code of the command, negative for a signal."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    start = time.perf_counter()
    process = subprocess.Popen(command)
    code, orphans = None, 0
    while code is None:
        pid, status = os.wait()
        if pid == process.pid:
            code, wall = os.waitstatus_to_exitcode(status), time.perf_counter() - start
        else:
            orphans += 1
    process.returncode = code
    orphans += _rest(time.perf_counter() + GRACE)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "code": code, "wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "orphans": orphans,
    }  # fmt: skip
    Path(report).write_text(json.dumps(found))
    return code


def _rest(until: float) -> int:
    """Wait for what is left, then kill it; how many there were."""
    count = 0
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return count
        if pid:
            count += 1
        elif time.perf_counter() < until:
            time.sleep(0.01)
        else:
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)  # its children come to us next
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]) != 0)
