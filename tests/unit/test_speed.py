"""The plan, the results file and the page of the benchmark of speed, on figures made by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from anomgan.errors import UsageError
from anomgan.evaluation.speed import (
    FAILED,
    HALF_ON_CUDA,
    OURS,
    RATE,
    Case,
    Figure,
    SpeedPlan,
    figure,
    plan_cases,
    read_facts,
    read_figures,
    run_speed,
)
from anomgan.evaluation.timing import Timing
from anomgan.report.speed import markdown_section, number, page, plots, sections, write_page

FACTS: dict[str, str | int] = {"processor": "abacus", "usable cores": 1}
PLAN = SpeedPlan(
    what=("throughput", "growth"),
    batches=(1, 512),
    rows=(1000,),
    columns=(8, 16),
    training_rows=(400, 800),
)


def made(case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
    """Ours takes 2 ms a call and could take 1 ms; the other takes 4 ms."""
    per = max(1, case.rows)
    timings = {OURS: Timing(2e-3, 1e-3, 4e-3, 5), "kNN(5)": Timing(4e-3, 4e-3, 4e-3, 5)}
    return [
        figure(case, name, "scoring", RATE, timing, per=per, data="made up",
               limits_s=(1e-3, 1.5e-3, 1e-6) if name == OURS else None)
        for name, timing in timings.items()
    ]  # fmt: skip


def run(plan: SpeedPlan, path: Path, measure=made, facts=FACTS, **kwargs) -> list[Figure]:
    return run_speed(plan, str(path), measure=measure, facts=facts, **kwargs)


def test_cases_of_one_model_stand_together_and_none_twice() -> None:
    cases = plan_cases(PLAN)
    assert cases == [
        Case("machine"),
        Case("throughput", 1, 8, 400),
        Case("throughput", 512, 8, 400),
        Case("growth", 1000, 8, 400),
        Case("growth", 512, 8, 400),
        Case("growth", 512, 16, 400),
        Case("growth", 512, 8, 800),
    ]


def test_a_rate_and_its_share_of_the_limits() -> None:
    ours, other = made(Case("throughput", 512, 8, 400), PLAN, Path())
    assert ours.value == pytest.approx(512 / 2e-3)
    assert (ours.low, ours.high) == (pytest.approx(512 / 4e-3), pytest.approx(512 / 1e-3))
    assert ours.share() == pytest.approx(0.5)
    assert ours.share("passes") == pytest.approx(0.75)
    assert ours.share("memory") == pytest.approx(5e-4)
    assert math.isnan(other.share())


def test_a_time_and_its_share_of_the_limit() -> None:
    timing = Timing(8e-6, 7e-6, 9e-6, 100)
    found = figure(Case("latency", 1), OURS, "p50", "us", timing, scale=1e6,
                   limits_s=(2e-6, 0.0, 0.0))  # fmt: skip
    assert (found.value, found.low, found.high) == pytest.approx((8.0, 7.0, 9.0))
    assert found.share() == pytest.approx(0.25)
    assert math.isnan(found.share("passes"))


def test_figures_are_kept_and_not_measured_again(tmp_path: Path) -> None:
    path, said = tmp_path / "r.csv", []
    first = run(PLAN, path, progress=lambda *state: said.append(state[:2]))
    assert said == [(i, 7) for i in range(1, 8)]
    text = path.read_text()
    assert json.loads((tmp_path / "r.json").read_text())["processor"] == "abacus"

    def refuse(case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        raise AssertionError(case)

    again = run(PLAN, path, refuse)
    assert path.read_text() == text
    assert [f.case for f in again] == [f.case for f in first]
    np.testing.assert_allclose([f.value for f in again], [f.value for f in first], rtol=1e-5)


def test_a_stopped_run_goes_on_with_the_next_case(tmp_path: Path) -> None:
    path, asked = tmp_path / "r.csv", []

    def stops(case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        asked.append(case)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return made(case, plan, folder)

    with pytest.raises(KeyboardInterrupt):
        run(PLAN, path, stops)
    assert len(read_figures(path)) == 3 * 2
    run(PLAN, path, stops)
    assert asked[3:] == plan_cases(PLAN)[3:4] + plan_cases(PLAN)[3:]


def test_a_failed_case_is_told_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"

    def fails(case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        if case.rows == 1:
            raise ValueError("no\nluck")
        return made(case, plan, folder)

    found = [f for f in run(PLAN, path, fails) if f.quantity == FAILED]
    assert [(f.case, f.note) for f in found] == [
        (Case("throughput", 1, 8, 400), "ValueError: no luck")
    ]
    assert "ValueError: no luck" in page(read_figures(path), FACTS, command="c", folder="f")
    assert FAILED not in {f.quantity for f in run(PLAN, path)}


@pytest.mark.parametrize(
    ("facts", "plan", "told"),
    [
        ({"processor": "slide rule", "usable cores": 1}, PLAN, "abacus there, slide rule here"),
        (FACTS, dataclasses.replace(PLAN, threads=2), "threads: 1 there, 2 here"),
    ],
)
def test_figures_of_another_machine_are_not_mixed_in(tmp_path: Path, facts, plan, told) -> None:
    path = tmp_path / "r.csv"
    run(PLAN, path)
    with pytest.raises(UsageError, match=told):
        run(plan, path, facts=facts)


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="holds no figures of speed"):
        run(PLAN, tmp_path / "r.csv")
    with pytest.raises(UsageError, match="name a CSV file"):
        run(PLAN, tmp_path / "r.json")
    (tmp_path / "mine.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="holds something else"):
        run(PLAN, tmp_path / "mine.csv")
    assert (tmp_path / "mine.json").read_text() == '{"a": 1}'
    with pytest.raises(UsageError, match="cannot read the facts"):
        read_facts(tmp_path / "nowhere.json")


def test_faults_of_a_plan_are_told_together() -> None:
    with pytest.raises(UsageError) as raised:
        SpeedPlan(what=("speed",), rows=(), training_rows=(5,), budget_s=0.0)
    told = str(raised.value)
    for part in ("no part 'speed' to measure; the parts are training,", "rows: at least one",
                 "training_rows: at least one number from 100", "a budget of 0 s"):  # fmt: skip
        assert part in told


def test_sections_have_ratios_and_shares(tmp_path: Path) -> None:
    found = {s.title: s for s in sections(run(PLAN, tmp_path / "r.csv"))}
    throughput = found["Scoring throughput by rows a call"]
    line = dict(zip(throughput.headers, throughput.rows[3], strict=True))
    assert line["contender"] == "kNN(5)"
    assert line["anomgan over it"] == "2"
    ours = dict(zip(throughput.headers, throughput.rows[2], strict=True))
    assert (ours["median"], ours["quartiles"]) == ("256 000", "128 000 to 512 000")
    assert (ours["% of arithmetic floor"], ours["% of fuller limit"]) == ("50", "75")
    growth = found["How scoring grows with training rows, rows/s"]
    assert [row[0] for row in growth.rows] == ["400", "800"]
    text = markdown_section(growth, folder="plots")
    assert "| training rows | anomgan onnxruntime CPU | kNN(5) |" in text
    assert "(plots/growth-training_rows.png)" in text


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ({1: 1e2, 64: 5e3, 512: 1e6}, "from 512 rows a call on"),
        ({1: 1e4, 64: 5e4, 512: 1e6}, "from 1 row a call on"),
        ({1: 1e4, 64: 5e3, 512: 1e6}, "from 512 rows a call on"),
        ({1: 1e2, 64: 5e3, 512: 1e4}, "in no size of call"),
    ],
)
def test_the_page_says_from_which_size_of_call_a_gpu_is_faster(
    rates: dict[int, float], told: str
) -> None:
    def rate(who: str, n: int, value: float) -> Figure:
        return Figure("throughput", n, 8, 400, who, "scoring", RATE, value)

    figures = [rate(OURS, n, value) for n, value in ((1, 4e3), (64, 2e4), (512, 3e4))]
    figures += [rate(HALF_ON_CUDA, n, value) for n, value in rates.items()]
    (section,) = [s for s in sections(figures) if s.title.startswith("Scoring")]
    assert section.note == (
        f"anomgan --precision fp16 onnxruntime CUDA scores more rows a second than {OURS} {told}. "
        "The processor has the threads of this run, and `Scorer` takes all there are."
    )


def test_without_a_gpu_nothing_is_said_of_one(tmp_path: Path) -> None:
    found = {s.title: s for s in sections(run(PLAN, tmp_path / "r.csv"))}
    assert found["Scoring throughput by rows a call"].note == ""


def test_the_page_and_its_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures = run(PLAN, tmp_path / "r.csv")
    written = write_page(str(tmp_path / "speed.md"), figures, FACTS, command="the command")
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert text == page(figures, FACTS, command="the command", folder="speed")
    assert "| processor | abacus |" in text
    assert "    the command\n" in text
    assert "Rows: made up." in text
    for name in plots(figures):
        assert f"(speed/{name})" in text
        assert (tmp_path / "speed" / name).read_bytes().startswith(b"\x89PNG")
    assert len(written) == 1 + len(plots(figures)) == 5


def test_small_shares_of_node_time_are_summed_up() -> None:
    case = Case("throughput", 512, 8, 400)
    shares = {"outside matrix products": 50.0, "Gemm": 49.0, "Mul": 50.2, "Neg": 0.5, "Cast": 0.3}
    own = [Figure(**dataclasses.asdict(case), contender=kind, quantity="share of node time",
                  unit="%", value=value) for kind, value in shares.items()]  # fmt: skip
    (section,) = [s for s in sections(own) if s.title.startswith("Where")]
    assert dict(section.rows) == {
        "Mul": "50.2",
        "outside matrix products": "50",
        "Gemm": "49",
        "all other nodes": "0.8",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (12.0, "12"), (999.4, "999"), (1234.5, "1 230"), (1e6, "1 000 000"),
     (math.nan, "")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
