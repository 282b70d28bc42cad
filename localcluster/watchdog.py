"""Ends a cluster's processes when its supervisor is gone.

The supervisor holds the other end of this process's standard input. An orderly stop writes a byte; the end of the
file without one means that the supervisor was killed, and then nothing of the cluster may survive it. In contrast
to PR_SET_PDEATHSIG this reaches grandchildren too.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from localcluster import processes

if TYPE_CHECKING:
    from localcluster.state import StateDir


def watch(state: StateDir) -> int:
    """Block until the supervisor ends; return the exit code."""
    if sys.stdin.buffer.read(1):
        return 0
    cluster_id = state.cluster_id()
    found, left = processes.sweep(lambda: processes.find(cluster_id, state.root, state.pids), grace=0)
    sys.stderr.write(f"watchdog: the supervisor is gone; ended {found - len(left)} of {found} processes\n")
    return 1 if left else 0
