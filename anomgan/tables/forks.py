"""Refuses to read tables where that would never end: in a child forked beside Polars' threads.

Polars works in a pool of threads that it starts when it is first needed. A process that is forked
afterwards has the pool and none of its threads, and waits for them for ever.
"""

from __future__ import annotations

import os
import re

from anomgan.errors import UsageError

__all__ = ["require_threads"]

_TASKS = "/proc/self/task"
_POOL = re.compile(r"polars-\d+")


class _Lineage:
    """What this process was forked from."""

    pool_at_fork = False
    stranded = False

    @classmethod
    def before(cls) -> None:
        """Look for the pool; called in the parent."""
        cls.pool_at_fork = cls.stranded or _has_pool()

    @classmethod
    def in_child(cls) -> None:
        """Remember what the parent had."""
        cls.stranded = cls.pool_at_fork


def _has_pool() -> bool:
    """Say whether Polars' threads run; yes where the system does not tell."""
    try:
        return any(_POOL.match(_thread_name(task)) for task in os.listdir(_TASKS))
    except OSError:
        return True


def _thread_name(task: str) -> str:
    try:
        with open(f"{_TASKS}/{task}/comm") as file:
            return file.read()
    except OSError:  # it has ended meanwhile
        return ""


def require_threads() -> None:
    """Raise a UsageError in a forked process that lacks the threads to read a table."""
    if _Lineage.stranded:
        raise UsageError(
            "this process was forked from one that had already read a table, and has none of the "
            "threads that read them: start workers with the method 'spawn' or 'forkserver', or "
            "before the first table is read; arrays and mappings of plain numbers can be scored"
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_Lineage.before, after_in_child=_Lineage.in_child)
