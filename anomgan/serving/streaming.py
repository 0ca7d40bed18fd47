"""Work spread over threads in order and with a bounded backlog.

One onnxruntime session called from several threads outruns one call with several threads
(FINDINGS 3.2), and holding only a few batches at a time keeps memory constant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ordered_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """Yield ``work(item)`` for each item, in order, computed by `threads` threads.

    At most ``threads + 1`` items are held at once: `items` is read no faster than results are
    taken. An error surfaces where its item's result would have been. When the iterator is
    closed, or anything is raised, what has not begun is dropped, and what has is waited for.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    pending: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="anomgan-score")
    try:
        for item in items:
            pending.append(executor.submit(work, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
