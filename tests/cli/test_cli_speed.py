"""`anomgan benchmark speed`: a small run of everything, and what goes wrong."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anomgan_cli.app import app

TINY = [
    *("--quick", "--batches", "1,100", "--rows", "150", "--columns", "4", "--budget", "0.02"),
    *("--training-rows", "150", "--csv-rows", "300", "--steps", "8"),
]


def _call(*arguments: str):
    return CliRunner().invoke(app, ["benchmark", "speed", *arguments])


@pytest.mark.slow
def test_everything_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = _call(*TINY, "-o", "r/speed.csv", "--report", "r/page.md", "--markdown")
    assert done.exit_code == 0, done.output
    with open("r/speed.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    seen = defaultdict(set)
    for row in rows:
        seen[row["what"]].add((row["contender"], row["quantity"]))
    own, torch = "anomgan onnxruntime CPU", "anomgan torch CPU"
    assert seen["training"] >= {(torch, "fit"), (torch, "training"), ("kNN(5)", "fit")}
    assert seen["throughput"] >= {(own, "scoring"), (torch, "scoring"), ("kNN(5)", "scoring"),
                                  ("IsolationForest(100)", "scoring"),
                                  ("graph", "products, float")}  # fmt: skip
    assert seen["latency"] >= {(own, "p50"), (own, "p99"), ("kNN(5)", "p99")}
    assert seen["start"] >= {("anomgan score", "start"), ("imports alone", "start")}
    assert seen["csv"] >= {("anomgan score", "CSV to CSV"), ("anomgan score", "peak memory")}
    assert {"machine", "growth"} <= set(seen)
    assert all(float(row["value"]) > 0 for row in rows if row["unit"] in ("rows/s", "s", "us"))
    for row in rows:  # ours alone is counted
        limited = row["limit_products"] != ""
        assert not limited or row["contender"].startswith("anomgan")
        assert limited or not (row["contender"] == own and row["unit"] == "rows/s")
    facts = json.loads(Path("r/speed.json").read_text())
    assert (facts["threads"], facts["steps"]) == (1, 8)
    page = Path("r/page.md").read_text(encoding="utf-8")
    assert "anomgan benchmark speed -o r/speed.csv --report r/page.md" in page
    assert str(tmp_path) not in page
    assert Path("r/page/throughput.png").is_file()
    assert "## Scoring throughput by rows a call" in done.stdout
    assert "throughput, 100 rows, 4 columns" in done.stderr
    again = _call(*TINY, "-o", "r/speed.csv", "--quiet")
    assert again.exit_code == 0, again.output
    assert again.stderr == ""
    with open("r/speed.csv", newline="") as file:
        assert list(csv.DictReader(file)) == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "10,x"], "--rows 10,x: whole numbers with commas are expected, as 10,100"),
        (["--columns", "0"], "columns: at least one number from 1 is needed"),
        (["--training-rows", "20"], "training_rows: at least one number from 100 is needed"),
        (["--what", "scoring"], "no part 'scoring' to measure; the parts are training, throughput"),
        (["--budget", "0"], "a budget of 0 s is none"),
        (["--report", "page.html"], "--report page.html: name a page that ends in .md"),
        (["-o", "speed.json"], "speed.json: name a CSV file with -o"),
    ],
)
def test_bad_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = _call(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    done = _call("-o", str(tmp_path / "mine.csv"))
    assert done.exit_code == 2
    assert "holds no figures of speed" in done.stderr
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
