"""Commands that are killed, stopped, or cannot write: real processes, real full disks.

`tests/acceptance/kills.py` kills many more times.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from killing import ANOMGAN, KilledFit, kill_when, model_id, run, start
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan.bundle import Bundle
from anomgan.locks import sole_writer
from anomgan_cli.app import app

FIT = ["--seed", "0", "--set", "device=cpu", "--set", "n_steps=60"]


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- Killed -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fit_killed_while_it_saves_resumes_to_the_same_model(
    machine_files, machine_model, tmp_path
):
    shutil.copy(machine_files[0], tmp_path / "normal.csv")
    toy_bundle(tmp_path / "m")  # is replaced
    former = Bundle.open(tmp_path / "m").manifest
    fit = KilledFit(tmp_path, "normal.csv", FIT, seconds=10.0)
    process = start(*fit.words, cwd=tmp_path)
    killed = kill_when(process, lambda: any(n.endswith(".tmp") for n in names(tmp_path)), 0.01)
    assert killed
    found = Bundle.open(tmp_path / "m")
    assert found.manifest == former or model_id(tmp_path / "m") == model_id(machine_model)
    assert fit.finish() == model_id(machine_model)
    assert names(tmp_path) == ["m", "normal.csv"]


@pytest.fixture
def scoring(tmp_path: Path) -> Path:
    """A folder with a model, and a table that takes a while."""
    toy_bundle(tmp_path / "anomgan-model")
    toy_table(200_000, seed=1).write_csv(tmp_path / "new.csv")
    return tmp_path


def test_a_killed_scoring_leaves_nothing_or_all_and_goes_on(scoring):
    words = ["score", "new.csv", "-q", "--threads", "1"]
    run(*words, "-o", "expected.csv", cwd=scoring)
    journal = scoring / ".o.csv.partial.json"

    def rows() -> int:
        return json.loads(journal.read_text())["rows"] if journal.exists() else 0

    for goal, more in ((0, []), (60_000, ["--resume"]), (120_000, ["--resume"])):
        process = start(*words, "-o", "o.csv", *more, cwd=scoring)
        assert kill_when(process, lambda: rows() > goal, 0.01)  # noqa: B023
        assert not (scoring / "o.csv").exists()
    reached = rows()
    process = start("score", "new.csv", "--resume", "-o", "o.csv", cwd=scoring)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    grouped = f"{reached:,}".replace(",", " ")
    assert f"Went on after {grouped} rows that had been scored before." in said
    assert (scoring / "o.csv").read_bytes() == (scoring / "expected.csv").read_bytes()
    assert names(scoring) == ["anomgan-model", "expected.csv", "new.csv", "o.csv"]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "rows are kept; give the same command again to go on."),
        (signal.SIGTERM, 143, ""),
    ],
)
def test_a_stopped_scoring_keeps_its_rows_if_asked(scoring, number, code, said):
    words = ["score", "new.csv", "-o", "o.csv", "--resume", "--threads", "1"]
    process = subprocess.Popen(
        [*ANOMGAN, *words],
        cwd=scoring,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (scoring / ".o.csv.partial.json").exists():
        time.sleep(0.001)
    process.send_signal(number)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == code
    assert said in talk
    assert "Traceback" not in talk
    assert names(scoring) == [
        *(".o.csv.partial", ".o.csv.partial.json", "anomgan-model", "new.csv")
    ]


def test_resume_without_a_partial_file_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_bundle("anomgan-model")
    toy_table(30).write_csv("new.csv")
    result = invoke("score", "new.csv", "--resume")
    assert result.exit_code == 0, result.output
    assert "There was nothing to go on from: scored from the start." in result.stderr
    refused = invoke("score", "new.csv", "--resume", "-o", "o.parquet")
    assert refused.exit_code == 2
    assert "--resume cannot continue this: a Parquet file has its index at its end" in (
        refused.stderr
    )


# --- Two at once ------------------------------------------------------------------------------


def test_of_two_fits_to_one_place_one_is_refused_at_once(machine_files, tmp_path):
    with sole_writer(tmp_path / "m", shown="m"):
        process = start("fit", str(machine_files[0]), "-m", "m", cwd=tmp_path)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said == (
        f"Error: another process ({os.getpid()}) is writing to m just now: wait until it has "
        "ended, or choose another place with -m\n"
    )
    assert names(tmp_path) == []


# --- Nowhere to write -------------------------------------------------------------------------

DISK = """
set -e
mount -t tmpfs -o size="$1" tmpfs disk
cp -r keep/. disk/
[ "$2" = rw ] || mount -o remount,ro disk
shift 2
"$@"
"""

# Runs commands one after the other and tells of each what it said and what then is on the disk.
COMMANDS = """
import hashlib, json, os, sys
from pathlib import Path
from typer.testing import CliRunner
from anomgan_cli.app import app

def disk():
    files = sorted(p for p in Path("disk").rglob("*"))
    return [[str(p), p.is_file() and hashlib.sha256(p.read_bytes()).hexdigest()] for p in files]

before, told = disk(), []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    told.append([result.exit_code, result.stderr, disk() == before])
print(json.dumps(told))
"""


def on_disk(folder: Path, size: int, mode: str, *commands: list[str]) -> list[tuple]:
    """Run commands with a tiny disk of their own at ``disk/``, which holds what ``keep/`` does."""
    words = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    (folder / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", DISK, "sh", str(size), mode, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(told) for told in json.loads(done.stdout)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder, where disks may be mounted."""
    trial = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs "$0"', str(tmp_path)]
    try:
        done = subprocess.run(trial, capture_output=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode:
        pytest.skip("no disk may be mounted here: it takes root")
    return tmp_path


SCORE = ["score", "new.csv", "-m", "model", "-q"]
LABELLED = ["evaluate", "new.csv", "-m", "model", "--label", "y", "--no-baselines"]
WRITING = [
    [*SCORE, "-o", "disk/o.csv"],
    [*SCORE, "-o", "disk/o.csv", "--resume"],
    [*SCORE, "-o", "disk/o.jsonl", "--keep-columns"],
    [*SCORE, "-o", "disk/o.parquet"],
    [*SCORE, "-o", "disk/o.csv", "--fdr", "0.1"],
    [*SCORE, "-o", "elsewhere.csv", "--report", "disk/r.html"],
    [*LABELLED, "--report", "disk/r.html"],
    ["export", "-m", "model", "-o", "disk/s.onnx"],
]


@pytest.mark.parametrize(
    ("mode", "reason"), [("rw", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_disk_that_takes_nothing_is_said(place, mode, reason):
    toy_bundle(place / "model")
    rows = toy_table(3000, seed=1)
    rows.with_columns(y=(pl.int_range(3000) % 100 == 0).cast(pl.Int8)).write_csv(place / "new.csv")
    (place / "keep").mkdir()
    for name in ("o.csv", "o.jsonl", "o.parquet", "r.html", "s.onnx"):
        (place / "keep" / name).write_text("former")
    for words, told in zip(WRITING, on_disk(place, 24 << 10, mode, *WRITING), strict=True):
        code, said, unchanged = told
        assert code == 2, (words, said)
        last = said.splitlines()[-1]
        assert last.startswith("Error: cannot write disk/"), (words, said)
        assert f"{reason}; choose another place with -" in last, (words, said)
        assert unchanged, words
    # Scores that had a place of their own are whole: only the page beside them is not there.
    assert (place / "elsewhere.csv").exists() == (mode == "rw")


@pytest.mark.slow
def test_a_fit_on_a_full_disk_leaves_the_former_model(place, machine_files, machine_model):
    shutil.copytree(machine_model, place / "keep" / "m")
    size = sum(p.stat().st_size for p in machine_model.iterdir())
    room = size + 4096 * len(names(machine_model)) + 65536
    words = ["fit", str(machine_files[0]), "-m", "disk/m", "--force", "-q"]
    words += ["--set", "device=cpu", "--set", "n_steps=5"]
    ((code, said, unchanged),) = on_disk(place, room, "rw", words)
    assert code == 2, said
    assert "No space left on device" in said
    assert "choose another place" in said
    assert unchanged


def test_a_fit_on_a_read_only_disk_is_refused_before_it_reads(place):
    toy_bundle(place / "keep" / "m")
    words = ["fit", "not-even-there.csv", "-m", "disk/m", "--force"]
    ((code, said, unchanged),) = on_disk(place, 1 << 20, "ro", words)
    assert code == 2, said
    assert said.startswith("Error: cannot write the model to disk/m: ")
    assert said.endswith("; choose another place with -m\n")
    assert unchanged


def test_a_place_that_vanishes_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_bundle("anomgan-model")
    toy_table(30).write_csv("new.csv")
    for name in ("o.csv", "o.parquet"):
        Path("out").mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(
                "anomgan.serving.tally.Tally.summary",
                lambda *_, **__: shutil.rmtree("out", ignore_errors=True),
            )
            if name == "o.csv":  # it is put in its place before the summary
                patch.setattr(
                    "anomgan.serving.tally.Tally.add",
                    lambda self, item: (shutil.rmtree("out"), item.verdicts.p_value)[1],
                )
            result = invoke("score", "new.csv", "-o", f"out/{name}")
        assert result.exit_code == 2, result.output
        assert result.stderr == (
            f"Error: cannot write out/{name}: No such file or directory; choose another place "
            "with -o\n"
        )
    assert names(tmp_path) == ["anomgan-model", "new.csv"]


def test_a_fit_whose_place_vanishes_makes_it_anew(machine_files, machine_model, tmp_path):
    from anomgan.estimator import fit_table
    from anomgan.tables import SchemaOptions, read_table

    (tmp_path / "out").mkdir()
    fit_table(
        read_table(machine_files[0]),
        options=SchemaOptions(),
        parameters={"n_steps": 60, "random_state": 0, "device": "cpu"},
        source="normal.csv",
        output=tmp_path / "out" / "m",
        progress=lambda *_: shutil.rmtree(tmp_path / "out", ignore_errors=True),
    )
    assert model_id(tmp_path / "out" / "m") == model_id(machine_model)
    assert names(tmp_path / "out") == ["m"]


@pytest.fixture
def full() -> Iterator[int]:
    """A descriptor that takes nothing."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "new.csv", "-q", "-o", "-"],
        ["inspect"],
        ["export", "-q", "-o", "-"],
    ],
    ids=lambda words: " ".join(words[:1]),
)
def test_standard_output_that_takes_nothing_is_said(tmp_path, full, arguments):
    toy_bundle(tmp_path / "anomgan-model")
    toy_table(60).write_csv(tmp_path / "new.csv")  # few rows: they wait in a buffer until the end
    done = subprocess.run(
        [sys.executable, "-m", "anomgan_cli", *arguments],
        cwd=tmp_path,
        stdout=full,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: cannot write standard output: No space left on device; ")
    assert len(done.stderr.splitlines()) == 1
