"""One scorer, many threads and processes: every answer is that of serial use."""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from toy_model import toy_bundle
from worker import scores_of

from anomgan.errors import ModelError
from anomgan.serving import Scorer
from anomgan.serving.sessions import ForkedSession
from anomgan.tables import read_table

N_THREADS = 16
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")


@pytest.fixture(scope="module")
def scorer(machine_model):
    """A trained flagship: numbers, dates, texts, missing cells."""
    return Scorer.open(machine_model, providers="cpu", threads=2)


@pytest.fixture(scope="module")
def frame(machine_files):
    return read_table(machine_files[1])


def _same(one, other):
    np.testing.assert_array_equal(one.score, other.score)
    np.testing.assert_array_equal(one.p_value, other.p_value)
    np.testing.assert_array_equal(one.contributions, other.contributions)


def test_sixteen_threads_get_the_answers_of_serial_use(scorer, frame):
    """All start at once; frames, single rows and streams of batches side by side."""
    whole = scorer.score(frame)
    rng = np.random.default_rng(0)
    parts = [np.sort(rng.integers(len(frame), size=rng.integers(1, 120))) for _ in range(64)]
    serial = [scorer.score(frame[part]) for part in parts]
    ready = threading.Barrier(N_THREADS)

    def work(k):
        ready.wait()
        return [scorer.score(frame[part]) for part in parts[k::N_THREADS]]

    with ThreadPoolExecutor(N_THREADS) as pool:
        found = list(pool.map(work, range(N_THREADS)))
    for k in range(N_THREADS):
        for part, expected, verdicts in zip(
            parts[k::N_THREADS], serial[k::N_THREADS], found[k], strict=True
        ):
            _same(verdicts, expected)
            np.testing.assert_array_equal(verdicts.score, whole.score[part])


# --- Forks ----------------------------------------------------------------------------------

SCRIPT = """
import multiprocessing, os, sys, threading
import numpy as np
from anomgan.errors import AnomganError
from anomgan.serving import Scorer

scorer = Scorer.open(sys.argv[1], threads=1, providers="cpu")
rows = np.load(sys.argv[2])
expected = scorer.score(rows).score
session = scorer._session._owned[1]

def answer(k):
    if k == -1:
        try:
            scorer.score({"x0": ["1"], "x1": ["2"], "x2": ["3"]})
        except AnomganError as error:
            return str(error)
        return "read"
    fresh = scorer._session._owned[1] is not session
    same = np.array_equal(scorer.score(rows).score, expected)
    return same, fresh, scorer._session._owned[1] is not session

def main():
    if sys.argv[3] == "table":
        scorer.score({"x0": ["1.0"], "x1": ["?"], "x2": ["3"]})
    stop = threading.Event()
    def keep_busy():
        while not stop.is_set():
            scorer.score(rows)
    busy = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in busy:
        thread.start()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        print(*pool.map(answer, range(8), chunksize=1), sep="\\n")
        print(pool.apply(answer, (-1,)))
    stop.set()
    for thread in busy:
        thread.join()

main()
"""


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A model of three numbers, and rows for it."""
    import polars as pl

    folder = tmp_path_factory.mktemp("numbers")
    rows = np.random.default_rng(0).normal(size=(900, 3))
    toy_bundle(folder / "model", pl.DataFrame(rows, schema=["x0", "x1", "x2"]))
    np.save(folder / "rows.npy", rows)
    return folder


@forks
@pytest.mark.parametrize("before", ["nothing", "table"])
def test_forked_workers_give_the_same_scores(numbers, before):
    """Forked while other threads are scoring; a table is read, or refused, but never waited for."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    done = subprocess.run(
        [*command, str(numbers / "model"), str(numbers / "rows.npy"), before],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *answers, table = done.stdout.splitlines()
    assert len(answers) == 8
    # The first answer of a worker opens a session of its own, and later ones go on with it.
    assert set(answers) <= {"(True, False, True)", "(True, True, True)"}
    assert "(True, False, True)" in answers
    if before == "table" and os.path.isdir("/proc/self/task"):
        assert table == (
            "this process was forked from one that had already read a table, and has none of the "
            "threads that read them: start workers with the method 'spawn' or 'forkserver', or "
            "before the first table is read; arrays and mappings of plain numbers can be scored"
        )
    elif os.path.isdir("/proc/self/task"):
        assert table == "read"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_workers_open_the_model_themselves(numbers, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"the system has no {method}")
    rows = np.load(numbers / "rows.npy")
    expected = Scorer.open(numbers / "model", providers="cpu").score(rows).score
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply_async(scores_of, (str(numbers / "model"), rows)).get(timeout=60)
    np.testing.assert_array_equal(found, expected)


def test_a_session_that_cannot_be_opened_again_is_refused(monkeypatch, numbers):
    class OnTheCard:
        def get_providers(self):
            return ["CUDAExecutionProvider"]

    forked = ForkedSession(OnTheCard(), reopen=lambda: None)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ModelError) as caught:
        forked.run([], {})
    assert str(caught.value) == (
        "this process was forked from the one that opened the model on CUDAExecutionProvider, and "
        "cannot use its session: open the model in each worker, after the fork, or start workers "
        "with the method 'spawn' or 'forkserver'"
    )


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="memory is read from /proc")
def test_ten_seconds_of_scoring_leave_memory_flat_and_scores_alone(
    repository, machine_model, machine_files
):
    """The short version of the half hour that `tests/acceptance/soak.py` takes."""
    command = [sys.executable, str(repository / "tests/acceptance/soak.py"), "--minutes", "0.15"]
    done = subprocess.run(
        [*command, "--model", str(machine_model), "--table", str(machine_files[1])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 answers differ from the first" in done.stdout
    assert "it grows by" in done.stdout


def test_a_soak_finds_a_leak_and_a_drift(repository, scorer, frame):
    spec = importlib.util.spec_from_file_location("soak", repository / "tests/acceptance/soak.py")
    soak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(soak)
    times = np.arange(0.0, 100.0, 0.25)
    noise = np.random.default_rng(0).normal(size=len(times))
    assert abs(soak.growth_mb(times, 300.0 + noise)) < 1.0
    assert soak.growth_mb(times, 300.0 + noise + 0.5 * times) == pytest.approx(40.0, abs=1.0)
    watched = soak.Soak(scorer, frame)
    watched.expected.score[3] += np.float32(1e-3)  # one row of 200, by a thousandth
    soak.watched(watched, 2, 20.0)
    assert watched.faults
    assert "score of a batch of" in watched.faults[0]
