"""An onnxruntime session that outlives a fork.

A forked process gets a copy of the session, but none of the threads that worked in it: a lock that
one of them held stays locked, and a graphics card knows the parent alone. So the child opens a
session of its own, from the same bytes, when it first scores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime as ort

from anomgan.errors import ModelError
from anomgan.serving.providers import CPU

__all__ = ["ForkedSession"]


class ForkedSession:
    """Runs a session in the process that opened it, and one of its own in each forked child.

    Parameters
    ----------
    session : InferenceSession
    reopen : callable, optional
        Opens the same model again. None: forked children are refused.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        reopen: Callable[[], ort.InferenceSession] | None = None,
    ) -> None:
        # One value, so that no lock is needed, which a fork might copy while it is held.
        self._owned = (os.getpid(), session)
        # Sessions of the parent are kept: to free one would wait for its threads.
        self._left: list[ort.InferenceSession] = []
        self._reopen = reopen

    def run(self, outputs: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        """Run the graph; see onnxruntime.

        Raises
        ------
        ModelError
            This is a forked child, in which the session cannot be opened again.
        """
        found: list[Any] = self.here().run(outputs, feed)
        return found

    def here(self) -> ort.InferenceSession:
        """Return the session of this process; see `run`."""
        pid, session = self._owned
        return session if pid == os.getpid() else self._opened_here(session)

    def _opened_here(self, inherited: ort.InferenceSession) -> ort.InferenceSession:
        in_use = inherited.get_providers()[0]
        if self._reopen is None or in_use != CPU:
            raise ModelError(
                f"this process was forked from the one that opened the model on {in_use}, and "
                "cannot use its session: open the model in each worker, after the fork, or start "
                "workers with the method 'spawn' or 'forkserver'"
            )
        session = self._reopen()
        # Two threads of the child may both open one: each works, and the last one stays.
        self._left.append(inherited)
        self._owned = (os.getpid(), session)
        return session
