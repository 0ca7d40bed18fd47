"""The ordered, bounded map over threads."""

import threading
import time

import pytest

from anomgan.serving.streaming import ordered_map


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads):
    def work(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    assert list(ordered_map(work, range(40), threads=threads)) == [i * i for i in range(40)]
    assert list(ordered_map(work, [], threads=threads)) == []


def test_items_are_taken_no_faster_than_results():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = ordered_map(lambda i: i, items(), threads=3)
    for done in range(1, 20):
        next(results)
        assert len(taken) <= done + 3
    results.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_surfaces_in_its_place(threads):
    def work(i):
        if i == 5:
            raise ValueError("five")
        return i

    results = ordered_map(work, range(50), threads=threads)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)


def test_an_error_of_the_items_stops_the_threads():
    def items():
        yield 1
        raise OSError("disk")

    before = threading.active_count()
    with pytest.raises(OSError, match="disk"):
        list(ordered_map(lambda i: i, items(), threads=4))
    assert threading.active_count() == before


def test_closing_drops_what_has_not_begun():
    begun = []
    release = threading.Event()

    def work(i):
        begun.append(i)
        release.wait(5)
        return i

    results = ordered_map(work, range(100), threads=2)
    timer = threading.Timer(0.2, release.set)
    timer.start()
    next(results)
    results.close()
    timer.join()
    assert len(begun) <= 4
