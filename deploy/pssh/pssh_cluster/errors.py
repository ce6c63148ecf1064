"""What ends a target with a message instead of a traceback."""

from __future__ import annotations


class ClusterError(Exception):
    """Something that the user can put right; the message says how."""
