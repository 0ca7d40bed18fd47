"""Scoring takes the same memory however long the table is."""

import os
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


def _peak_mb(folder, table, *options):
    """Peak resident memory of one ``anomgan score``, in MB, as the system counted it."""
    code = "from anomgan_cli.main import app; app()"
    arguments = ["score", table, "-q", "--threads", "2", *options]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    scale = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * scale / MB


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4 to measure")
@pytest.mark.parametrize("fmt", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_table(folder, fmt):
    short = _peak_mb(folder, "10.csv", "--format", fmt)
    long = _peak_mb(folder, "100.csv", "--format", fmt)
    assert Path(folder / f"100.scores.{fmt}").exists()
    assert long < 600
    assert long - short < 60  # ten times the rows; a batch more or less in flight
