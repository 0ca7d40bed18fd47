"""Scoring and explaining take the same memory however long the table is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_model import toy_bundle

COLUMNS = [f"sensor_{j:02d}" for j in range(20)]
MB = 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory")
    values = np.random.default_rng(0).normal(size=(4_000, len(COLUMNS))).round(6)
    table = pl.DataFrame(values, schema=COLUMNS)
    toy_bundle(path / "anomgan-model", table.head(500))
    block = table.write_csv(include_header=False).encode()
    for size in (10 * MB, 100 * MB):
        with open(path / f"{size // MB}.csv", "wb") as file:
            file.write(",".join(COLUMNS).encode() + b"\n")
            for _ in range(size // len(block)):
                file.write(block)
    yield path
    for table_file in path.glob("*.csv"):
        table_file.unlink()


_RUN = """
import sys
from anomgan_cli.app import app
try:
    app()
finally:
    with open("/proc/self/status") as status, open("peak", "w") as peak:
        peak.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def _peak_mb(folder, *arguments):
    """Peak resident memory of one ``anomgan`` command, in MB.

    Read from the process itself: what wait4 tells of a child starts at its parent's peak.
    """
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments, "-q"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int((folder / "peak").read_text()) * 1024 / MB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to measure")
@pytest.mark.parametrize(
    ("fmt", "report"),
    [
        ("csv", ()),
        ("parquet", ()),
        ("csv", ("--report", "report.html")),
        ("csv", ("--report", "report.html", "--fdr", "0.9")),
    ],
)
def test_memory_does_not_grow_with_the_table(folder, fmt, report):
    options = ("--threads", "2", "--format", fmt, *report)
    short = _peak_mb(folder, "score", "10.csv", *options)
    long = _peak_mb(folder, "score", "100.csv", *options)
    assert Path(folder / f"100.scores.{fmt}").exists()
    assert long < 400
    assert long - short < 60  # ten times the rows; a batch more or less in flight


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to measure")
def test_explaining_does_not_grow_with_the_table(folder):
    short = _peak_mb(folder, "explain", "10.csv", "--top", "20")
    long = _peak_mb(folder, "explain", "100.csv", "--top", "20")
    assert long < 400
    assert long - short < 60
