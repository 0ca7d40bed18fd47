"""The benchmark engine: what a row holds, going on after a stop, failures kept."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from anomgan.errors import OutputError, UsageError
from anomgan.evaluation import baselines
from anomgan.evaluation.baselines import DEFAULT_METHODS, detectors
from anomgan.evaluation.benchmark import Case, Run, distinct, read_runs, run_benchmark
from anomgan.evaluation.summary import plain_table, summarise
from anomgan.export.precision import FP16
from anomgan.persistence import export_half
from anomgan.serving import Scorer
from anomgan.serving.providers import make_session
from anomgan_cli.benchmark_cases import suite_cases


@dataclass
class Rows:
    X_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def _split(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    test = rng.normal(size=(60, 2))
    test[40:] += 6.0
    return Rows(rng.normal(size=(80, 2)), test, np.repeat([0, 1], [40, 20]))


def _broken_split(seed: int) -> Rows:
    raise OSError("the file\nis gone")


CASES = [Case("toy", name, "clean", _split) for name in ("a", "b")]
METHODS = detectors(["knn1", "iforest"])
UNTIMED = {"fit_s": 0.0, "score_s": 0.0}


def _untimed(runs: tuple[Run, ...]) -> list[Run]:
    return [dataclasses.replace(run, **UNTIMED) for run in runs]


def test_a_run_a_row_in_order(tmp_path: Path) -> None:
    seen = []
    runs = run_benchmark(
        CASES, METHODS, [0, 1], tmp_path / "new" / "r.csv", progress=lambda *told: seen.append(told)
    )
    assert [run.key for run in runs] == [
        ("toy", name, "clean", seed, method)
        for name in "ab"
        for seed in (0, 1)
        for method in ("knn1", "iforest")
    ]
    assert {(run.rows, run.columns, run.error) for run in runs} == {(80, 2, "")}
    assert all(run.auroc > 0.99 and run.average_precision > 0.99 for run in runs)
    assert all(0.0 <= run.false_alarm_rate < 0.2 and run.fit_s > 0 < run.score_s for run in runs)
    assert [told[:2] for told in seen] == [(i, 8) for i in range(1, 9)]
    assert read_runs(tmp_path / "new" / "r.csv") == runs


@pytest.mark.parametrize("cut", [0, 5])
def test_it_goes_on_after_a_kill(tmp_path: Path, cut: int) -> None:
    """Stopped after three runs, and in the middle of writing the third line."""
    whole = run_benchmark(CASES, METHODS, [0, 1], tmp_path / "whole.csv")
    path = tmp_path / "r.csv"

    def stop(done: int, total: int, run: Run) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_benchmark(CASES, METHODS, [0, 1], path, progress=stop)
    if cut:
        os.truncate(path, path.stat().st_size - cut)
    kept = read_runs(path)
    assert len(kept) == (2 if cut else 3)
    told = []
    runs = run_benchmark(CASES, METHODS, [0, 1], path, progress=lambda *a: told.append(a))
    assert len(told) == 8 - len(kept)
    assert runs[: len(kept)] == kept  # times too: they were not run again
    assert _untimed(runs) == _untimed(whole)
    before = path.read_bytes()
    assert run_benchmark(CASES, METHODS, [0, 1], path) == runs
    assert path.read_bytes() == before


def test_failures_are_recorded_and_the_rest_runs(tmp_path: Path) -> None:
    class Failing:
        def fit(self, X: object) -> None:
            raise ValueError('no "good",\nat all')

    methods = {"failing": lambda seed: Failing(), **METHODS}
    cases = [*CASES[:1], Case("toy", "gone", "clean", _broken_split)]
    runs = run_benchmark(cases, methods, [0], tmp_path / "r.csv")
    assert [(run.set, run.method, run.rows, run.error) for run in runs if run.error] == [
        ("a", "failing", 80, 'ValueError: no "good", at all'),
        *(("gone", method, 0, "OSError: the file is gone") for method in methods),
    ]
    assert np.isnan(runs[0].auroc)
    assert runs[1].auroc > 0.99


def test_processes_give_the_same_rows(data_dir: Path, tmp_path: Path) -> None:
    cases = suite_cases(["embedded"], ["clean"], ["wine", "breast_cancer"])
    one = run_benchmark(cases, METHODS, [0], tmp_path / "one.csv")
    environment = dict(os.environ)
    two = run_benchmark(cases, METHODS, [0], tmp_path / "two.csv", jobs=2)
    # Whoever ends the process now leaves none behind.
    assert not multiprocessing.active_children()
    assert _untimed(one) == _untimed(two)
    assert dict(os.environ) == environment


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"holds no benchmark results: its first line should be"):
        run_benchmark(CASES, METHODS, [0], path)
    assert path.read_text() == "a,b\n1,2\n"
    run_benchmark(CASES[:1], METHODS, [0], tmp_path / "r.csv")
    with (tmp_path / "r.csv").open("a") as file:
        file.write("toy,a,clean,first,knn1,1,1,,,,,,\n")
    with pytest.raises(UsageError, match=r"r\.csv, line 4: no result of a run .*'first'.*delete"):
        read_runs(tmp_path / "r.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the results"):
        run_benchmark(CASES, METHODS, [0], tmp_path / "file" / "r.csv")
    with pytest.raises(UsageError, match="jobs is 0, at least 1"):
        run_benchmark(CASES, METHODS, [0], path, jobs=0)


def test_nearest_neighbours_meet_the_printed_baselines(data_dir: Path, tmp_path: Path) -> None:
    import pandas as pd

    printed = pd.read_csv(data_dir / "adbench" / "baselines_clean.csv").set_index(["set", "method"])
    sets = ["44_Wilt", "45_wine", "6_cardio", "38_thyroid"]
    cases = suite_cases(["adbench"], ["clean"], sets)
    methods = detectors(["knn1", "knn5mean", "lof"])
    runs = run_benchmark(cases, methods, [0, 1, 2], tmp_path / "r.csv")
    for name in sets:
        for method in methods:
            found = [run for run in runs if (run.set, run.method) == (name, method)]
            assert len(found) == 3
            for measure in ("auroc", "average_precision"):
                mean = np.mean([getattr(run, measure) for run in found])
                if (name, method) in printed.index:
                    assert mean == pytest.approx(printed.loc[(name, method), measure], abs=1e-4)
    assert ("44_Wilt", "knn1") in printed.index


def test_neighbours_meet_the_published_table(data_dir: Path, tmp_path: Path) -> None:
    """Printed to two digits; sets of 1 000 to 50 000 rows, where no draw is made."""
    import pandas as pd

    printed = pd.read_csv(data_dir / "adbench" / "published_semi_auroc.csv").set_index("set")
    sets = ["44_Wilt", "6_cardio", "38_thyroid"]
    cases = suite_cases(["adbench"], ["published"], sets)
    for run in run_benchmark(cases, detectors(["knn5max", "lof"]), [0], tmp_path / "r.csv"):
        column = {"knn5max": "KNN", "lof": "LOF"}[run.method]
        assert 100 * run.auroc == pytest.approx(printed.loc[run.set, column], abs=0.02)


def test_suites_and_sets_that_are_not_there(data_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"no set nothing in embedded; there are .*wine"):
        suite_cases(["embedded"], ["clean"], ["nothing"])
    with pytest.raises(UsageError, match="published is for arrays"):
        suite_cases(["tables"], ["published"], [])
    (case,) = suite_cases(["tables"], ["clean"], ["ai4i2020"])
    assert (case.suite, case.protocol) == ("tables", "table")


def test_methods_are_named_and_faults_told_together() -> None:
    assert list(detectors(DEFAULT_METHODS)) == list(DEFAULT_METHODS)
    made = detectors(["anomgan", "knn1"], {"n_steps": 20, "n_members": 2})
    assert list(made) == ["anomgan(n_members=2;n_steps=20)", "knn1"]
    assert isinstance(made["knn1"], partial)
    with pytest.raises(UsageError) as caught:
        detectors(["anomgan", "knn7"], {"steps": 3, "random_state": 1})
    assert [fault.split(";")[0] for fault in caught.value.faults] == [
        "unknown method 'knn7'",
        "anomgan has no parameter 'steps' to set",
        "anomgan has no parameter 'random_state' to set",
    ]
    with pytest.raises(UsageError, match=r"parameters are given \(n_steps\), but no detector"):
        detectors(["knn1"], {"n_steps": 3})


def test_pyod_absent_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomgan.evaluation.baselines.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pyod-alad needs PyOD.*pip install 'anomgan\[pyod\]'"):
        detectors(["knn1", "pyod-alad"])


def test_contamination_and_a_split_seed_make_cases_of_their_own() -> None:
    cases = suite_cases(
        ["embedded"], ["clean"], ["breast_cancer"], contamination=[0.0, 0.05], split_seed=3
    )
    assert [case.protocol for case in cases] == ["clean@3", "clean+5%@3"]
    pure, foul = (case.split(0) for case in cases)
    assert len(pure.X_train) == len(foul.X_train)
    assert len(pure.X_test) - len(foul.X_test) == round(0.05 * len(pure.X_train))
    # The seed of a run is that of the method alone.
    np.testing.assert_array_equal(pure.X_test, cases[0].split(1).X_test)
    free = suite_cases(["embedded"], ["clean"], ["breast_cancer"])[0]
    assert not np.array_equal(free.split(0).X_test, free.split(1).X_test)
    np.testing.assert_array_equal(pure.X_test, free.split(3).X_test)


@pytest.mark.parametrize(("suite", "protocol"), [("tables", "clean"), ("embedded", "published")])
def test_only_arrays_under_protocol_clean_can_be_contaminated(suite: str, protocol: str) -> None:
    with pytest.raises(UsageError, match="only protocol clean of arrays can be contaminated"):
        suite_cases([suite], [protocol], [], contamination=[0.01])


def test_precision_and_recall_are_of_the_share_that_a_paper_flags(tmp_path: Path) -> None:
    y = np.array([0] * 8 + [1] * 2)
    split = SimpleNamespace(X_train=np.zeros((4, 1)), X_test=np.arange(10.0)[:, None], y_test=y)

    class Ordered:
        def fit(self, X):
            return self

        def score(self, X):
            return X[:, 0]

        def p_values(self, scores):
            return np.ones(len(scores))

    case = Case("papers", "few", "papers-clean", lambda seed: split, 0.4)
    (run,) = run_benchmark([case], {"ordered": lambda seed: Ordered()}, [0], tmp_path / "runs.csv")
    assert (run.precision, run.recall) == pytest.approx((0.5, 1.0))
    assert run.f1 == pytest.approx(2.0 / 3.0)


def test_results_from_before_precision_are_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    fields = [f.name for f in dataclasses.fields(Run)][:-2]
    path.write_text(",".join(fields) + "\na,few,clean,0,old,4,1,0.5,0.5,0.01,1,1,\n")
    (old,) = read_runs(path)
    assert math.isnan(old.precision)
    split = SimpleNamespace(X_train=np.zeros((4, 1)), X_test=np.zeros((3, 1)), y_test=np.eye(3)[0])

    class Failing:
        def fit(self, X):
            raise ValueError("no")

    case = Case("a", "few", "clean", lambda seed: split)
    run_benchmark([case], {"new": lambda seed: Failing()}, [0], path)
    assert [run.method for run in read_runs(path)] == ["old", "new"]


def test_copies_are_scored_once_and_judged_each(tmp_path: Path) -> None:
    """The same figures as with every row scored, from calls on distinct rows alone."""
    seen: list[int] = []

    class Counting:
        def fit(self, X: object) -> Counting:
            return self

        def score(self, X: pd.DataFrame) -> np.ndarray:
            seen.append(len(X))
            return X["a"].to_numpy(dtype=float)

        def p_values(self, scores: np.ndarray) -> np.ndarray:
            return 1.0 - scores / 10.0

    test = pd.DataFrame({"a": [5.0, 0.0, 5.0, 9.0, 0.0, 2.0], "b": [None, "x", None, "x", "x", ""]})
    split = SimpleNamespace(X_train=test, X_test=test, y_test=np.array([1, 0, 0, 1, 0, 0]))
    runs = [
        run_benchmark(
            [Case("s", "n", "p", lambda seed: split, score_once=once)],
            {"m": lambda seed: Counting()},
            [0],
            tmp_path / f"{once}.csv",
        )
        for once in (False, True)
    ]
    assert seen == [6, 4]
    assert _untimed(runs[0]) == _untimed(runs[1])
    assert runs[0][0].auroc < 1.0


def test_copies_in_an_array_are_found() -> None:
    rows = np.array([[1.0, np.nan], [0.0, 2.0], [1.0, np.nan], [0.0, 3.0]])
    kept, place = distinct(rows)
    np.testing.assert_array_equal(kept, rows[[0, 1, 3]])
    np.testing.assert_array_equal(kept[place], rows)


@pytest.mark.parametrize("name", ["anomgan", "anogan"])
def test_exported_graphs_score_as_torch_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the seeded toy split; to rounding, and by onnxruntime alone."""
    split = _split(0)
    values = {"n_steps": 10} | ({"inversion_steps": 20} if name == "anogan" else {})
    found = {}
    for exported in ("", "exported"):
        ((label, make),) = detectors([name], values, exported=exported).items()
        assert label.endswith(";exported)") == bool(exported)
        detector = make(0).fit(split.X_train)
        if exported:
            monkeypatch.setattr(detector._detector, "anomaly_score", None)
        found[exported] = detector.score(split.X_test)
    np.testing.assert_allclose(found["exported"], found[""], rtol=1e-4)
    assert found["exported"].dtype == np.float64


def test_fast_graphs_have_scores_and_p_values_of_their_own(tmp_path: Path) -> None:
    methods = detectors(["anomgan"], {"n_steps": 10}, exported="fast")
    assert list(methods) == ["anomgan(n_steps=10;fast)"]
    detector = methods["anomgan(n_steps=10;fast)"](0).fit(_split(0).X_train)
    scores = detector.score(_split(0).X_test)
    assert len(detector.p_values(scores)) == len(scores)
    assert scores[40:].min() > np.median(scores[:40])
    twice = detector.p_values(np.repeat(scores, 2))  # copies are scored once and judged each
    np.testing.assert_array_equal(twice[::2], detector.p_values(scores))
    assert (np.diff(detector.p_values(np.sort(scores))) <= 0.0).all()


def test_graphs_of_float16_are_rounded_as_on_a_gpu() -> None:
    """Neither the full scores, nor those that a processor gives, which keeps float32 between."""
    found = {}
    for exported in ("", "fp16"):
        ((label, make),) = detectors(["anomgan"], {"n_steps": 10}, exported=exported).items()
        detector = make(0).fit(_split(0).X_train)
        found[exported] = detector.score(_split(0).X_test)
    assert label == "anomgan(n_steps=10;fp16)"
    relative = np.abs(found["fp16"] / found[""] - 1.0)
    assert 1e-6 < relative.max() < FP16.max_relative
    graph = export_half(detector._detector.model_, created_at="now")[0]
    session, _ = make_session(graph, providers="cpu")
    plain = Scorer(session).score(_split(0).X_test).score
    assert (plain != found["fp16"].astype(np.float32)).any()
    p_values = detector.p_values(found["fp16"])
    assert p_values[40:].max() < np.median(p_values[:40])


def test_exported_graphs_of_others_are_refused() -> None:
    with pytest.raises(UsageError, match="no detector of ours is compared"):
        detectors(["iforest"], exported="exported")


def test_others_may_go_without_their_second_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the false alarms is as with it; ours has p-values of its own."""
    fits, found = {}, {}

    def fitter(known: np.ndarray, seed: int):
        fits[calibrated] = fits.get(calibrated, 0) + 1
        return lambda rows: np.abs(rows).sum(axis=1)

    monkeypatch.setitem(baselines._FITTERS, "iforest", fitter)
    for calibrated in (True, False):
        methods = detectors(["iforest", "anomgan"], {"n_steps": 10}, calibrated=calibrated)
        runs = run_benchmark(CASES[:1], methods, [0], tmp_path / f"{calibrated}.csv")
        found[calibrated] = _untimed(runs)
    assert fits == {True: 2, False: 1}
    assert math.isnan(found[False][0].false_alarm_rate)
    with_rate = dataclasses.replace(
        found[False][0], false_alarm_rate=found[True][0].false_alarm_rate
    )
    assert with_rate == found[True][0]
    assert found[False][1] == found[True][1]
    (summary,) = summarise(found[False], against=runs[1].method)
    headers, rows = plain_table(summary)
    shown = {row[0]: row[headers.index("false alarms")] for row in rows}
    assert shown["iforest"] == "-" != shown[runs[1].method]
