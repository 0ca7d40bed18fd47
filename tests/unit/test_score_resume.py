"""``score --resume``: the same bytes and the same summary as a scoring that nobody stopped."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from toy_model import toy_bundle, toy_table

from anomgan.errors import OutputError, SchemaError, TableError, UsageError
from anomgan.serving import Scorer
from anomgan.serving.files import ScoreSummary, score_table
from anomgan.serving.partial import PartialFile
from anomgan.tables import open_table

N_ROWS, BATCH = 400, 50
DIGITS = frozenset("0123456789")
PARTIAL, JOURNAL = ".o.partial", ".o.partial.json"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a table; every batch is written down."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PartialFile, "interval_s", 0.0)
    toy_bundle("anomgan-model")
    toy_table(N_ROWS, seed=1).write_csv("new.csv")
    return tmp_path


def score(
    table: str = "new.csv",
    *,
    stop_after: int | None = None,
    error: type[BaseException] = KeyboardInterrupt,
    model: str = "anomgan-model",
    **options: Any,
) -> ScoreSummary:
    """Score in small batches into the file ``o``; stop once so many rows are written."""

    def stop(n_rows: int) -> None:
        if stop_after is not None and n_rows >= stop_after:
            raise error("stopped")

    scorer = Scorer.open(model, providers="cpu", threads=2)
    bad = options.get("on_bad_row", "error")
    with open_table(table, batch_rows=BATCH, on_bad_row=bad) as reader:
        return score_table(scorer, reader, "o", progress=stop, **options)


def left() -> list[str]:
    return sorted(name for name in os.listdir() if name.startswith((".", "o")))


def as_gzip() -> str:
    Path("new.csv.gz").write_bytes(gzip.compress(Path("new.csv").read_bytes()))
    return "new.csv.gz"


def as_parquet() -> str:
    pl.read_csv("new.csv").write_parquet("new.parquet")
    return "new.parquet"


def with_odd_cells() -> str:
    """Line feeds in quotes, a ragged line, blank lines and cells that cannot be read."""
    rows = toy_table(N_ROWS, seed=2).with_columns(
        plant=pl.lit('no\nrth, "x"'),
        pressure=pl.when(pl.int_range(N_ROWS) % 97 == 5)
        .then(pl.lit("97 bar"))
        .otherwise("pressure"),
    )
    lines = rows.write_csv()
    Path("quoted.csv").write_text(lines + "\n\n1,2\n\n")
    return "quoted.csv"


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (lambda: "new.csv", {}),
        (lambda: "new.csv", {"fmt": "jsonl", "keep_columns": True, "top_features": 2}),
        (as_gzip, {"false_alarm_rate": 0.05, "drift": False}),
        (as_parquet, {"keep_columns": True}),
        (with_odd_cells, {"on_bad_row": "skip", "keep_columns": True}),
    ],
)
def test_continued_is_as_if_never_stopped(
    here: Path, table: Callable[[], str], options: dict[str, Any]
) -> None:
    name = table()
    whole = score(name, **options)
    expected = Path("o").read_bytes()
    Path("o").unlink()
    for stop_after in (60, 150, 151, 350):
        with pytest.raises(KeyboardInterrupt, match="rows are kept; give the same command again"):
            score(name, stop_after=stop_after, resume=True, **options)
        assert left() == [PARTIAL, JOURNAL]
        done = json.loads(Path(JOURNAL).read_text())
        assert done["rows"] >= stop_after - BATCH
        assert expected.startswith(Path(PARTIAL).read_bytes()[: done["bytes"]])
        with open(PARTIAL, "ab") as file:
            file.write(b"what a kill cut off")
    continued = score(name, resume=True, **options)
    assert Path("o").read_bytes() == expected
    assert left() == ["o"]
    assert continued.continued_after >= 300
    same = replace(continued, seconds=whole.seconds, continued_after=0)
    assert same == whole


def test_drift_is_told_of_all_rows(
    machine_model: Path,
    machine_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PartialFile, "interval_s", 0.0)
    table = str(machine_files[1])
    whole = score(table, model=str(machine_model))
    assert whole.drift is not None
    assert whole.drift.departures
    with pytest.raises(KeyboardInterrupt):
        score(table, model=str(machine_model), stop_after=100, resume=True)
    assert score(table, model=str(machine_model), resume=True).drift == whole.drift


def test_without_resume_a_stop_leaves_nothing(here: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^nothing partial was left behind\.$"):
        score(stop_after=200)
    assert left() == []


def test_bad_rows_leave_what_was_kept_only_with_resume(here: Path) -> None:
    rows = toy_table(N_ROWS).with_columns(
        pressure=pl.when(pl.int_range(N_ROWS) == 333).then(pl.lit("97 bar")).otherwise("pressure")
    )
    rows.write_csv("bad.csv")
    with pytest.raises(SchemaError, match="row 334"):
        score("bad.csv")
    assert left() == []
    with pytest.raises(SchemaError, match="row 334"):
        score("bad.csv", resume=True)
    assert left() == [PARTIAL, JOURNAL]
    assert json.loads(Path(JOURNAL).read_text())["rows"] == 300
    toy_table(N_ROWS).write_csv("bad.csv")
    with pytest.raises(UsageError, match="the table is another one"):
        score("bad.csv", resume=True)
    score("bad.csv")
    assert left() == ["o"]


def test_trouble_on_the_way_keeps_what_is_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score()
    expected = Path("o").read_bytes()
    Path("o").unlink()
    with pytest.raises(TableError):  # as a network file system that is away for a while
        score(stop_after=200, error=TableError, resume=True)
    assert left() == [PARTIAL, JOURNAL]
    continued = score(resume=True)
    assert continued.continued_after >= 150
    assert (continued.n_rows, Path("o").read_bytes()) == (whole.n_rows, expected)


def test_any_new_scoring_clears_what_was_left(here: Path) -> None:
    for options in ({}, {"fmt": "parquet"}, {"false_discovery_rate": 0.1}):
        with pytest.raises(KeyboardInterrupt):
            score(stop_after=200, resume=True)
        assert left() == [PARTIAL, JOURNAL]
        assert score(**options).continued_after == 0
        assert left() == ["o"]
        Path("o").unlink()


def other_model() -> None:
    toy_bundle("anomgan-model", toy_table(300, seed=9), overwrite=True)


def other_table() -> None:
    toy_table(N_ROWS, seed=3).write_csv("new.csv")


def touched() -> None:
    os.utime("new.csv", (1, 1))


def altered() -> None:
    content = bytearray(Path(PARTIAL).read_bytes())
    content[40] ^= 1
    Path(PARTIAL).write_bytes(content)


def journal(**facts: Any) -> Callable[[], None]:
    def change() -> None:
        entry = json.loads(Path(JOURNAL).read_text()) | facts
        del entry["checksum"]
        said = json.dumps(entry, sort_keys=True, separators=(",", ":"))
        entry["checksum"] = hashlib.sha256(said.encode()).hexdigest()
        Path(JOURNAL).write_text(json.dumps(entry))

    return change


NOTHING: Callable[[], None] = bool


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (other_model, {}, "the model is another one, or was changed"),
        (other_table, {}, "the table is another one, or was changed"),
        (touched, {}, "the table is another one, or was changed"),
        (NOTHING, {"fmt": "jsonl"}, "--format was 'csv' and is 'jsonl'"),
        (
            NOTHING,
            {"false_alarm_rate": 0.2, "keep_columns": True},
            "--false-alarm-rate was None and is 0.2; --keep-columns was False and is True",
        ),
        (altered, {}, r"\.o\.partial is not what its journal says"),
        (lambda: Path(PARTIAL).write_bytes(b"row"), {}, "is not what its journal says"),
        (lambda: Path(JOURNAL).write_text("{"), {}, "cannot be read"),
        (lambda: Path(JOURNAL).write_text("[" * 100_000), {}, "cannot be read"),
        (lambda: Path(JOURNAL).write_text("[]"), {}, "is of another version of anomgan"),
        (journal(format=9), {}, "is of another version of anomgan"),
        (journal(rows="many"), {}, "lacks some of identity, bytes, rows"),
        (journal(rows=0), {}, "counts less than nothing"),
        (journal(rows=7), {}, "counts its rows in two ways"),
        (journal(state={}), {}, "its journal cannot be used"),
        (journal(identity={}), {}, "the table is another one"),
    ],
)
def test_only_the_same_is_continued(
    here: Path, change: Callable[[], object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(stop_after=200, resume=True)
    change()
    kept = [Path(name).read_bytes() for name in (PARTIAL, JOURNAL)]
    with pytest.raises(UsageError, match=rf"^o cannot be continued: .*{message}.*without --resume"):
        score(resume=True, **options)
    assert [Path(name).read_bytes() for name in (PARTIAL, JOURNAL)] == kept
    assert not Path("o").exists()


def test_a_journal_with_another_digit_is_refused(here: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(stop_after=200, resume=True)
    text = Path(JOURNAL).read_text()
    n_refused = 0
    for i, digit in enumerate(text):
        changed = text[:i] + str((int(digit) + 1) % 10) + text[i + 1 :] if digit in DIGITS else text
        if changed == text or json.loads(changed) == json.loads(text):
            continue
        Path(JOURNAL).write_text(changed)
        with pytest.raises(UsageError, match=r"^o cannot be continued"):
            PartialFile("o", {}, resume=True).__enter__()
        n_refused += 1
    assert n_refused > 100


def interrupted_at(n: int, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """Interrupt the n-th call of a function of `os`."""
    real = getattr(os, function)
    calls: list[int] = []

    def called(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == n:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(os, function, called)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("n", "function"), [(2, "fsync"), (4, "fsync"), (2, "replace"), (9, "replace")]
)
def test_an_interrupt_within_a_commit_or_at_the_end(
    here: Path, monkeypatch: pytest.MonkeyPatch, n: int, function: str, resume: bool
) -> None:
    kept = resume and (n, function) != (2, "fsync")  # that one is within the first commit
    words = "rows are kept" if kept else "no rows were kept" if resume else "nothing partial"
    with monkeypatch.context() as patch:
        interrupted_at(n, patch, function)
        with pytest.raises(KeyboardInterrupt, match=words):
            score(resume=resume)
    assert left() == ([PARTIAL, JOURNAL] if kept else [])


@pytest.mark.parametrize("resume", [False, True])
def test_an_interrupt_once_the_output_is_in_place_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    real = os.replace

    def placed(one: Path, other: Path) -> None:
        real(one, other)
        if Path(other).name == "o":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", placed)
    with pytest.raises(KeyboardInterrupt, match=r"^o is whole\.$"):
        score(resume=resume)
    assert len(Path("o").read_text().splitlines()) == N_ROWS + 1
    assert left() == ["o"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"fmt": "parquet"}])
def test_half_a_journal_of_a_killed_process_goes(here: Path, options: dict[str, Any]) -> None:
    for name in (f"{JOURNAL}.new", JOURNAL, PARTIAL):
        Path(name).touch()
        assert score(**options).continued_after == 0
        assert left() == ["o"]
        Path("o").unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmt": "parquet"}, "a Parquet file has its index at its end: use --format csv or jsonl"),
        ({"false_discovery_rate": 0.1}, "--fdr decides on all rows together"),
        ({"observe": lambda *_: None}, "--report shows all rows"),
    ],
)
def test_what_cannot_be_continued_is_said(
    here: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=rf"^--resume cannot continue this: {message}.*leave"):
        score(resume=True, **options)
    scorer = Scorer.open("anomgan-model", providers="cpu")
    with pytest.raises(UsageError, match="this one is no file: save it to one"):
        score_table(scorer, open_table(toy_table(9)), "o", resume=True)
    with open_table("new.csv") as reader, pytest.raises(UsageError, match="name one with -o"):
        score_table(scorer, reader, "-", resume=True)
    assert left() == []


def test_two_do_not_write_to_one_place(here: Path) -> None:
    identity = {"table": {}}
    with PartialFile("o", identity, resume=False) as file:
        file.write(b"mine")
        with pytest.raises(OutputError, match="another process is writing to o just now"):
            score()
    assert Path("o").read_bytes() == b"mine"


def test_a_full_disk_keeps_what_is_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"No space left on device; the first 150 rows are"):
            score(resume=True)
    assert left() == [PARTIAL, JOURNAL]
    assert score(resume=True).continued_after == 150


KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from anomgan.serving.partial import PartialFile

PartialFile.interval_s = 0.0
CHUNKS = [bytes([65 + i]) * 5000 for i in range(6)]

def write(resume):
    with PartialFile("o", {"table": {"bytes": 1}}, resume=resume) as file:
        for i in range(file.n_rows, len(CHUNKS)):
            file.write(CHUNKS[i])
            file.commit_if_due(i + 1, lambda: {"sum": i})
        return file.n_rows

def killed_at(n, resume):
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [n]
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.listdir", "os.truncate"):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    write(resume)
    os._exit(0)

n, continued = 1, []
while killed_at(n, False):
    assert not Path("o").exists() or Path("o").read_bytes() == b"".join(CHUNKS), n
    Path("o").unlink(missing_ok=True)
    killed_at(1 + n % 7, True)  # and once more while it goes on
    continued.append(write(True))
    assert Path("o").read_bytes() == b"".join(CHUNKS), n
    assert os.listdir() == ["o"], os.listdir()
    Path("o").unlink()
    n += 1
print(n - 1, max(continued))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_killed_at_any_step_there_is_nothing_or_all(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_STEP],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    n_kills, most = map(int, done.stdout.split())
    assert n_kills > 15
    assert most >= 5
