"""What reading costs: imports and memory, each measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROLOGUE = """
import sys
for name in ("pyarrow", {blocked}):
    sys.modules[name] = None
import anomgan.tables as t
"""


def run(code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *args],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_files_are_read_without_pandas_or_pyarrow(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,x\n2,y\n3,x\n")
    code = PROLOGUE.format(blocked="'pandas', 'torch', 'sklearn', 'scipy'") + (
        "frame = t.read_table(sys.argv[1])\n"
        "frame.write_parquet(sys.argv[2]); frame.write_ipc(sys.argv[3])\n"
        "for name in sys.argv[1:]:\n"
        "    schema = t.Schema.infer(t.read_table(name))\n"
        "    print([schema.rows(b).numeric.tolist() for b in t.open_table(name)])\n"
    )
    out = run(code, str(path), str(tmp_path / "t.parquet"), str(tmp_path / "t.arrow"))
    assert out.splitlines() == ["[[[1.0], [2.0], [3.0]]]"] * 3


def test_pandas_frames_are_read_without_pyarrow() -> None:
    pytest.importorskip("pandas")
    code = PROLOGUE.format(blocked="'torch'") + (
        "import pandas as pd\n"
        "frame = pd.DataFrame({'s': ['x', None], 'n': [1.5, 2.5]})\n"
        "frame['c'] = pd.Categorical(['a', 'b'])\n"
        "frame['d'] = pd.to_datetime(['2024-01-01', None])\n"
        "frame['i'] = pd.array([1, None], dtype='Int64')\n"
        "print(t.read_table(frame).select('s', 'n', 'c', 'i').rows())\n"
    )
    assert run(code) == "[('x', 1.5, 'a', 1), (None, 2.5, 'b', None)]"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="peak memory is measured by the system")
    code = (
        "import resource, sys\n"
        "from anomgan.tables import Schema, open_table\n"
        "schema = None\n"
        "for batch in open_table(sys.argv[1]):\n"
        "    schema = schema or Schema.infer(batch.frame)\n"
        "    schema.rows(batch)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    line = ",".join(f"{i * i / 7:.6f}" for i in range(20)) + "\n"
    lines = "".join(line.replace("6", str(k % 10)) for k in range(1000))
    header = ",".join(f"c{i}" for i in range(20)) + "\n"
    peaks = []
    for n_mb in (8, 80):
        path = tmp_path / f"{n_mb}.csv"
        with path.open("w") as file:
            file.write(header)
            for _ in range(n_mb * 1_000_000 // len(lines)):
                file.write(lines)
        peaks.append(int(run(code, str(path))) / 1024)
        path.unlink()
    assert peaks[1] - peaks[0] < 30, peaks
