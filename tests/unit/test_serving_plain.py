"""Plain numbers reach the scorer without a table, and score as they do in one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomgan import GANDetector, distillation
from anomgan.errors import SchemaError, UsageError
from anomgan.literature import FACES
from anomgan.persistence import export_fast
from anomgan.serving import Scorer
from anomgan.serving.plain import plain_array
from anomgan.serving.single_row import SMALL_GRAPH
from anomgan.serving.verdicts import Verdicts
from anomgan.tables.schema import Rows

PLAIN_CELLS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=64),
    st.integers(-(2**60), 2**60),
    st.sampled_from([0.0, -0.0, 1e-310, 2**53, 2**53 + 1, -1e308]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(PLAIN_CELLS, min_size=2, max_size=2))
def test_plain_numbers_score_as_they_do_in_a_table(numbers_model: Path, cells: list[float]) -> None:
    """The way round the table's reader leads to the same place, for rows and for arrays."""
    scorer = _plain_scorer(numbers_model)
    row = dict(zip(("load", "heat"), cells, strict=True))
    by_table = scorer.score(pl.DataFrame({name: [value] for name, value in row.items()}))
    quick = scorer.score(row)
    assert quick.score.tobytes() == by_table.score.tobytes()
    assert quick.contributions.tobytes() == by_table.contributions.tobytes()
    assert (quick.first_row, quick.feature_names) == (by_table.first_row, by_table.feature_names)
    array = np.array([cells], dtype=np.float64)
    table = scorer.score(pl.DataFrame(array, schema=["load", "heat"]))
    assert scorer.score(array).score.tobytes() == table.score.tobytes()


@lru_cache(maxsize=1)
def _plain_scorer(model: Path) -> Scorer:
    return Scorer.open(model, providers="cpu", threads=1)


@pytest.fixture(scope="module", params=["anomgan", "ganomaly"])
def numbers_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two numbers, whose graph is larger than `SMALL_GRAPH` or smaller."""
    rng = np.random.default_rng(0)
    load = rng.normal(size=200)
    rows = pd.DataFrame({"load": load, "heat": 2.0 * load + rng.normal(size=200)})
    place = tmp_path_factory.mktemp("numbers") / "m"
    faces = {"anomgan": GANDetector, **FACES}
    faces[request.param](n_steps=10, random_state=0).fit(rows).save(place)
    assert ((place / "scorer.onnx").stat().st_size <= SMALL_GRAPH) == (request.param == "ganomaly")
    return place


def test_what_is_no_plain_number_takes_the_way_of_tables(numbers_model: Path) -> None:
    scorer = _plain_scorer(numbers_model)
    missing = scorer.score({"load": None, "heat": 1.0})
    assert np.isfinite(missing.score).all()
    assert (
        scorer.score({"load": "1.5", "heat": 1}).score
        == scorer.score({"load": 1.5, "heat": 1.0}).score
    )
    with pytest.raises(SchemaError, match="'heat' is missing"):
        scorer.score({"load": 1.0})
    with pytest.raises(SchemaError):
        scorer.score({"load": float("inf"), "heat": 1.0})
    with pytest.raises(UsageError, match="does not say which column is which"):
        scorer.score(np.zeros((2, 3)))
    gap = scorer.score(np.array([[np.nan, 1.0]]))
    assert gap.score == missing.score
    many = np.random.default_rng(0).normal(size=(1500, 2))
    assert (scorer.score(many).score[:900] == scorer.score(many[:900]).score).all()
    matrix = scorer.score(many[:900].view(np.matrix))
    assert (matrix.score == scorer.score(many[:900]).score).all()
    ints = np.arange(6).reshape(3, 2)
    assert (scorer.score(ints).score == scorer.score(ints.astype(float)).score).all()


def test_masked_cells_are_missing_and_not_plain(numbers_model: Path) -> None:
    scorer = _plain_scorer(numbers_model)
    masked = np.ma.masked_array([[5.0, 1.0]], mask=[[True, False]])
    assert scorer.score(masked).score == scorer.score({"load": None, "heat": 1.0}).score
    with pytest.raises(UsageError):
        scorer.score(np.zeros((1, 2)), on_bad_row="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, 1, 64, 65])
def test_few_rows_and_many_make_the_same_frame(n):
    numbers = np.linspace(1.0, 2.0, n, dtype=np.float32)
    numbers[n // 2 : n // 2 + 1] = np.nan
    verdicts = Verdicts(
        numbers, numbers / 3, numbers > 1.5, numbers.reshape(-1, 1), ("a",), 0.01, 7
    )
    frame = verdicts.to_frame()
    assert frame.schema == {
        "row": pl.Int64,
        "score": pl.Float32,
        "p_value": pl.Float32,
        "is_anomaly": pl.Boolean,
    }
    assert frame["row"].to_list() == list(range(7, 7 + n))
    known = ~np.isnan(numbers)
    for name in ("score", "p_value", "is_anomaly"):
        assert frame[name].is_null().to_list() == (~known).tolist()
        assert np.array_equal(frame[name].drop_nulls().to_numpy(), getattr(verdicts, name)[known])


def test_single_rows_leave_earlier_answers_alone(numbers_model: Path) -> None:
    """Their buffers are used again: an answer must not be a view of them."""
    scorer = _plain_scorer(numbers_model)
    rows = np.random.default_rng(0).normal(size=(40, 2)) * 3.0
    together = scorer.score(rows)
    one_by_one = [scorer.score(row.reshape(1, 2)) for row in rows]
    for name in ("score", "p_value", "is_anomaly", "contributions"):
        found = np.concatenate([getattr(verdicts, name) for verdicts in one_by_one])
        assert found.dtype == getattr(together, name).dtype
        assert np.array_equal(found, getattr(together, name)), name
    assert together.is_anomaly.any()
    assert not together.is_anomaly.all()
    row = {"load": rows[0, 0], "heat": rows[0, 1]}
    p_value = float(together.p_value[0])
    # An answer at another rate, and back at the model's own.
    looser, tighter = min(0.9, 1.01 * p_value), 0.99 * p_value
    for rate, flag in ((looser, True), (tighter, False), (None, p_value <= 0.01)):
        verdicts = scorer.score({k: float(v) for k, v in row.items()}, false_alarm_rate=rate)
        assert bool(verdicts.is_anomaly[0]) is flag
        assert verdicts.false_alarm_rate == (scorer.false_alarm_rate if rate is None else rate)


def test_a_single_row_as_rows_keeps_its_number_and_its_missing_cells(numbers_model: Path) -> None:
    scorer = _plain_scorer(numbers_model)
    nothing = np.empty((1, 0), dtype=object)
    rows = Rows(np.array([[np.nan, 1.0]]), nothing, None, first_row=7)
    found = scorer.score(rows)
    assert found.first_row == 7
    assert found.score == scorer.score({"load": None, "heat": 1.0}).score
    unreadable = Rows(np.array([[0.0, 1.0]]), nothing, None, first_row=7, faults={0: "bad"})
    assert np.isnan(scorer.score(unreadable).score).all()
    with pytest.raises(UsageError, match="do not fit this model"):
        scorer.score(Rows(np.zeros((1, 3)), nothing, None, first_row=1))


def test_threads_score_single_rows_side_by_side(numbers_model: Path) -> None:
    scorer = _plain_scorer(numbers_model)
    rows = np.random.default_rng(1).normal(size=(16, 200, 2))
    expected = [scorer.score(part) for part in rows]
    ready = threading.Barrier(len(rows))

    def work(part: np.ndarray) -> list[Verdicts]:
        ready.wait()
        return [scorer.score(row.reshape(1, 2)) for row in part]

    with ThreadPoolExecutor(len(rows)) as pool:
        found = list(pool.map(work, rows))
    for serial, own in zip(expected, found, strict=True):
        assert np.array_equal(serial.score, np.concatenate([v.score for v in own]))
        shares = np.concatenate([v.contributions for v in own])
        assert np.array_equal(serial.contributions, shares)


def test_a_row_scored_in_the_middle_of_another_has_buffers_of_its_own(numbers_model: Path) -> None:
    """As a signal's handler may, between the graph's run and the reading of its answer."""
    scorer = _plain_scorer(numbers_model)
    first, second = np.array([[0.1, 0.2]]), np.array([[5.0, -5.0]])
    expected = scorer.score(first)
    single = scorer._single
    assert single is not None
    session = single._session.here()

    class Interrupted:
        """The session, and somebody who scores another row after the first run."""

        def __init__(self) -> None:
            self.armed = False
            self.answers: list[Verdicts] = []

        def run_with_iobinding(self, binding: Any) -> None:
            session.run_with_iobinding(binding)
            if self.armed:
                self.armed = False
                self.answers.append(scorer.score(second))

        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

    interrupted = Interrupted()
    single._session._owned = (os.getpid(), interrupted)  # type: ignore[assignment]
    try:
        scorer.score(first)  # binds
        interrupted.armed = True
        found = scorer.score(first)
    finally:
        single._session._owned = (os.getpid(), session)
    assert found.score == expected.score
    (meanwhile,) = interrupted.answers
    assert meanwhile.score == scorer.score(second).score != expected.score


def test_a_small_graph_has_a_session_for_single_rows(numbers_model: Path) -> None:
    """Opened when the first of them comes; it takes no other number of rows."""
    scorer = Scorer.open(numbers_model, providers="cpu", threads=1)
    rows = np.random.default_rng(0).normal(size=(2, 2))
    together, own, single = scorer.score(rows), scorer._session.here(), scorer._single
    assert single is not None
    assert single._session.here() is own
    assert scorer.score(rows[:1]).score == together.score[:1]
    opened = single._session.here()
    assert (opened is own) == ((numbers_model / "scorer.onnx").stat().st_size > SMALL_GRAPH)
    assert scorer.score(rows[1:]).score == together.score[1:]
    assert single._session.here() is opened
    rate = np.array(0.01, dtype=np.float32)
    feed = {"numeric": rows, "false_alarm_rate": rate}
    assert opened.get_inputs()[0].shape == ["N" if opened is own else 1, 2]
    assert len(own.run(None, feed)[0]) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_worker_scores_single_rows_in_a_session_of_its_own(numbers_model: Path) -> None:
    script = """
        import os, sys
        import numpy as np
        from anomgan.serving import Scorer

        scorer = Scorer.open(sys.argv[1], providers="cpu", threads=1)
        row = np.array([[0.5, -0.5]])
        expected = scorer.score(row).score
        inherited = scorer._single._session.here()
        child = os.fork()
        alike = scorer.score(row).score == expected
        if child == 0:
            own = scorer._single._session.here() is not inherited
            print(bool(alike), own, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(numbers_model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr


def test_a_fast_graph_scores_a_single_row_as_it_does_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All outputs, of usual rows and of rows that are far away."""
    monkeypatch.setattr(distillation, "_LESSONS", 4_000)
    monkeypatch.setattr(distillation, "_SHARED", 1_000)
    rows = np.random.default_rng(0).normal(size=(300, 3))
    fitted = GANDetector(n_steps=20, random_state=0, device="cpu").fit(rows).model_
    graph = tmp_path / "fast.onnx"
    graph.write_bytes(export_fast(fitted, created_at="now", n_steps=40)[0])
    assert graph.stat().st_size < SMALL_GRAPH
    scorer = Scorer.open(graph, providers="cpu", threads=1)
    new = np.concatenate([rows[:30], 50.0 * rows[30:40]])
    together = scorer.score(new)
    for i, row in enumerate(new):
        alone = scorer.score(row.reshape(1, -1))
        for name in ("score", "p_value", "is_anomaly", "contributions"):
            # The bits of a product may depend on how many rows it has.
            np.testing.assert_allclose(
                getattr(alone, name)[0], getattr(together, name)[i], rtol=1e-5, atol=1e-6
            )
    assert scorer._single is not None
    assert scorer._single._session.here() is not scorer._session.here()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(1, 2), (1, 300), (3, 2)])
def test_plain_arrays_hold_finite_numbers(shape: tuple[int, int], bad: float) -> None:
    rows = np.arange(float(np.prod(shape))).reshape(shape)
    for kind in (np.float64, np.float32, np.int64, np.int32):
        found = plain_array(rows.astype(kind), shape[1], 10)
        assert found is not None
        assert found.dtype == np.float64
        assert np.array_equal(found, rows)
    strided = np.repeat(rows, 2, axis=1)[:, ::2]
    for turned in (np.asfortranarray(rows), strided):
        found = plain_array(turned, shape[1], 10)
        assert found is not None
        assert np.array_equal(found, rows)
        # The graph is given several rows as they lie; a single one is copied into its buffer.
        assert found.flags.c_contiguous or len(rows) == 1
    for place in np.ndindex(shape):
        spoilt = rows.copy()
        spoilt[place] = bad
        assert plain_array(spoilt, shape[1], 10) is None
    for other in (">f8", np.uint8, str, object):
        assert plain_array(rows.astype(other), shape[1], 10) is None
    assert plain_array(rows, shape[1], shape[0] - 1) is None
    assert plain_array(rows, shape[1] + 1, 10) is None
