#!/usr/bin/env python3
"""Make a Spark cluster of machines that have nothing but ssh, and operate it: `cluster.py TARGET`.

The settings are environment variables; `make TARGET VARIABLE=value` passes them on (deploy/pssh/cluster.mk). It needs
Python 3.10, ssh and parallel-ssh, and nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from pssh_cluster.cli import main  # noqa: E402 (after the path)

if __name__ == "__main__":
    sys.exit(main())
