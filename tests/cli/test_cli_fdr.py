"""``anomgan score --fdr``: false-discovery control over a whole table."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan.calibration import benjamini_hochberg
from anomgan.false_discovery import Discoveries, storey_share
from anomgan.serving import Scorer
from anomgan.serving.cautions import PValueEnds
from anomgan.tables.readers import Batch
from anomgan_cli.app import app

MB = 1_000_000
READ = {
    "csv": partial(pl.read_csv, infer_schema_length=None),
    "parquet": pl.read_parquet,
    "jsonl": pl.read_ndjson,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_bundle("anomgan-model")
    table = toy_table(300, seed=1).with_columns(
        pressure=pl.when(pl.int_range(300) < 12).then(500.0).otherwise("pressure"),
    )
    table.write_csv("new.csv")
    return tmp_path


def run(*arguments, **options):
    return CliRunner().invoke(app, ["score", *arguments], **options)


def files():
    return sorted(p.name for p in Path().iterdir() if p.name != "anomgan-model")


def test_the_summary_says_what_was_controlled(here):
    result = run("new.csv", "--fdr", "0.1")
    assert result.exit_code == 0, result.output
    assert files() == ["new.csv", "new.scores.csv"]
    frame = pl.read_csv("new.scores.csv")
    flagged = frame.filter("is_anomaly")
    largest = flagged["p_value"].max()
    assert (
        f"{flagged.height} anomalies in 300 rows at a false-discovery rate of 0.1 "
        f"(p-value up to {largest:.2g}).\n"
    ) in result.stderr
    assert "false-alarm" not in result.stderr
    pl.read_csv("new.csv").head(60).write_csv("few.csv")
    adaptive = run("few.csv", "--fdr", "0.1", "--fdr-method", "storey", "-o", "few")
    share = 100 * storey_share(pl.read_csv("few")["p_value"])
    assert share < 100
    assert f"; {share:.3g} % of the rows estimated normal).\n" in adaptive.stderr


@pytest.mark.parametrize("method", ["bh", "storey"])
@pytest.mark.parametrize("fmt", ["csv", "parquet", "jsonl"])
def test_the_flags_are_those_of_the_p_values_as_written(here, fmt, method):
    for rate in (0.1, 0.3, 0.5):
        arguments = ("--fdr", str(rate), "--fdr-method", method, "--format", fmt, "-q")
        assert run("new.csv", *arguments, "-o", "new").exit_code == 0
        frame = READ[fmt]("new")
        expected = benjamini_hochberg(frame["p_value"].to_numpy(), rate, method=method)
        assert expected.any()
        assert frame["is_anomaly"].to_list() == expected.tolist()


@pytest.mark.parametrize("fmt", ["csv", "parquet", "jsonl"])
def test_only_the_flags_differ_from_those_of_a_false_alarm_rate(here, fmt):
    lines = Path("new.csv").read_text().splitlines()
    lines[200] = "P1-199,97 bar,run,4.2,north"
    Path("new.csv").write_text("\n".join(lines) + "\n")
    options = ["--keep-columns", "--top-features", "2", "--on-bad-row", "skip", "--format", fmt]
    assert run("new.csv", *options, "-o", "plain").exit_code == 0
    result = run("new.csv", *options, "-o", "controlled", "--fdr", "0.1")
    assert "1 row could not be read, hence no score:" in result.stderr
    plain, controlled = READ[fmt]("plain"), READ[fmt]("controlled")
    assert plain.columns == controlled.columns
    assert plain.drop("is_anomaly").equals(controlled.drop("is_anomaly"))
    assert controlled["is_anomaly"][199] is None
    readable = controlled.filter(pl.col("p_value").is_not_null())
    assert readable.height == 299
    expected = benjamini_hochberg(readable["p_value"].to_numpy(), 0.1)
    assert readable["is_anomaly"].to_list() == expected.tolist()


def test_stdin_is_read_once_and_goes_to_stdout(here):
    assert run("new.csv", "--fdr", "0.1", "-q").exit_code == 0
    result = run("-", "--fdr", "0.1", input=Path("new.csv").read_bytes())
    assert result.stdout == Path("new.scores.csv").read_text()
    assert "Scores: standard output" in result.stderr
    quiet = run("-", "--fdr", "0.1", "--quiet", input=Path("new.csv").read_bytes())
    assert quiet.stdout == result.stdout
    assert quiet.stderr == ""


def test_anomalies_can_fail_the_command_by_the_flags_that_were_written(here):
    assert run("new.csv", "--fdr", "0.1", "--fail-on-anomaly").exit_code == 3
    toy_table(300).filter(pl.col("pressure").is_between(97, 103)).write_csv("calm.csv")
    assert run("calm.csv", "--fail-on-anomaly", "--false-alarm-rate", "0.3").exit_code == 3
    assert run("calm.csv", "--fail-on-anomaly", "--fdr", "0.3").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--fdr", "0.1", "--false-alarm-rate", "0.01"),
            "--false-alarm-rate 0.01 and --fdr 0.1 are two rules for the same flags; choose one: ",
        ),
        (("--fdr-method", "storey"), "none is given; add --fdr, such as --fdr 0.1"),
        (("--fdr-extrapolate",), "none is given; add --fdr, such as --fdr 0.1"),
        (("--fdr", "0"), "the false-discovery rate must lie between 0 and 1, got 0; at 0.1, "),
        (("--fdr", "nan"), "the false-discovery rate must lie between 0 and 1, got nan; "),
    ],
)
def test_rules_that_contradict_are_refused_before_anything_is_written(here, arguments, said):
    result = run("new.csv", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert files() == ["new.csv"]


def test_an_error_in_the_middle_leaves_nothing_partial(here):
    with open("new.csv", "a") as file:
        file.write("P,1,run,1,north\n" * 20_000 + "P,abc,run,1,north\n")
    for arguments in ((), ("-o", "-")):
        result = run("new.csv", "--fdr", "0.1", *arguments)
        assert result.exit_code == 2
        assert "'abc'" in result.stderr
        assert result.stdout == ""
        assert files() == ["new.csv"]


def test_an_empty_table_has_no_anomalies(here):
    Path("new.csv").write_text(Path("new.csv").read_text().splitlines()[0] + "\n")
    plain = run("new.csv", "-o", "-", "-q")
    result = run("new.csv", "-o", "-", "--fdr", "0.1", "--fdr-method", "storey")
    assert (result.exit_code, result.stdout) == (plain.exit_code, plain.stdout)


def test_too_few_calibration_rows_are_said_where_they_are_why(here):
    calm = toy_table(300).filter(pl.col("pressure").is_between(97, 103))
    far = calm.head(1).with_columns(pressure=500.0)
    pl.concat([calm] * 4 + [far]).write_csv("new.csv")
    n = 4 * calm.height + 1
    result = run("new.csv", "--fdr", "0.05")
    assert f"0 anomalies in {n} rows at a false-discovery rate of 0.05.\n" in result.stderr
    needed = f"{n * 20 - 1:,}".replace(",", " ")
    assert (
        "1 row reached 0.0025, the smallest p-value that 400 calibration rows can give: to be "
        f"flagged at this rate among {n} rows it would take at least {needed} calibration rows; "
        "fit on more normal rows, or use --false-alarm-rate.\n"
    ) in result.stderr


def test_flags_beyond_all_calibration_rows_are_called_extrapolated(here):
    toy_bundle("model")
    scorer = Scorer.open("model", providers="cpu")
    rows = scorer.schema.rows(Batch(toy_table(3), 1, "new.csv"))
    for cutoff, expected in ((1e-5, 1), (np.float32(1 / 401), 0)):
        found = Discoveries(0.1, "bh", 3, 1.0, float(cutoff), 2, 1e-6, 1)
        ends = PValueEnds(scorer)
        ends.add(rows, np.array([1e-6, cutoff, 0.5], dtype=np.float32))
        cautions = ends.cautions(found)
        assert len(cautions) == expected
        assert all("400 calibration rows: the p-values are extrapolated" in c for c in cautions)


# Memory

_MEASURED = """
import sys
from anomgan_cli.app import app
try:
    app()
finally:
    with open("/proc/self/status") as status, open("peak", "w") as peak:
        peak.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to measure")
def test_waiting_rows_take_no_memory(tmp_path):
    values = np.random.default_rng(0).normal(size=(4_000, 20)).round(6)
    table = pl.DataFrame(values, schema=[f"sensor_{j:02d}" for j in range(20)])
    toy_bundle(tmp_path / "anomgan-model", table.head(500))
    header, block = table.head(0).write_csv(), table.write_csv(include_header=False)
    peaks = []
    for n_blocks in (24, 96):  # 18 and 72 MB; cells in memory would take twice that
        (tmp_path / "new.csv").write_text(header + block * n_blocks)
        arguments = ["score", "new.csv", "-q", "--threads", "2", "--keep-columns", "--fdr", "0.1"]
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int((tmp_path / "peak").read_text()) * 1024 / MB)
    assert pl.scan_csv(tmp_path / "new.scores.csv").select(pl.len()).collect().item() == 384_000
    assert peaks[1] - peaks[0] < 60  # a batch more or less in flight
