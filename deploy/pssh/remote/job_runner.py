# ruff: noqa: INP001 (a script)
"""Run a command, hand signals on to it, and write down its exit code: what `make run` starts on the master."""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def main() -> None:
    """Run argv[2:]; its exit code goes to the file argv[1]."""
    path, *command = sys.argv[1:]

    def defaults() -> None:
        # A shell starts what runs in the background with these ignored.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)

    child = subprocess.Popen(command, preexec_fn=defaults)  # noqa: S603, PLW1509 (no threads here)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: child.send_signal(signal.SIGINT))
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    code = child.wait()
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(f"{code if code >= 0 else 128 - code}\n")
    os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
