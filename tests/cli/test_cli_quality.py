"""``anomgan inspect --quality``: a model's generators measured by the rows of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from toy_model import toy_bundle
from typer.testing import CliRunner

from anomgan.evaluation.generator_quality import GeneratorQuality
from anomgan_cli.app import app

Rows = Callable[..., Path]


def run(*arguments: object, **how: Any) -> Any:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], **how)


@pytest.fixture
def rows(machine_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Write normal rows that the model has not seen, some cells changed, to where we are."""
    monkeypatch.chdir(tmp_path)

    def write(name: str = "held.csv", n: int = 100, **changed: Any) -> Path:
        frame = pd.read_csv(machine_files[1], dtype=str, keep_default_na=False)[:n]
        for column, value in changed.items():
            frame[column] = value
        frame.to_csv(name, index=False)
        return Path(name)

    return write


def refused(result: Any, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert message in result.stderr


def test_a_table_of_measures_stands_below_what_inspect_says(
    machine_model: Path, rows: Rows
) -> None:
    plain = run("-m", machine_model).stdout
    result = run("-m", machine_model, "--quality", rows())
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.startswith(plain)
    title, header, *lines = result.stdout[len(plain) :].strip().splitlines()
    assert title == "Generators by 100 rows: held.csv"
    assert header.split() == ["measure", "member", "1", "member", "2", "ideal"]
    assert len(lines) == 11
    assert {"precision", "recall", "coverage", "path", "Frechet"} <= {x.split()[0] for x in lines}


def test_json_holds_the_same_figures(machine_model: Path, rows: Rows) -> None:
    shown = json.loads(run("-m", machine_model, "--quality", rows(), "--json").stdout)
    quality = shown.pop("generator_quality")
    assert shown == json.loads((machine_model / "manifest.json").read_text())
    members = quality.pop("members")
    assert quality == {"source": "held.csv", "n_rows": 100, "n_unreadable": 0, "n_judged": 100}
    assert [set(m) for m in members] == 2 * [set(GeneratorQuality.__annotations__)]
    assert all(isinstance(value, float) for member in members for value in member.values())
    text = run("-m", machine_model, "--quality", rows()).stdout
    for member in members:
        assert f"{member['frechet_distance']:.4g}" in text
    again = json.loads(run("-m", machine_model, "--quality", rows(), "--json").stdout)
    assert again["generator_quality"]["members"] == members


def test_standard_input_and_other_delimiters_and_encodings_are_read(
    machine_model: Path, rows: Rows
) -> None:
    path = rows()
    data = path.read_bytes()
    result = run("-m", machine_model, "--quality", "-", input=data)
    assert "Generators by 100 rows: <stdin>" in result.stdout
    path.write_bytes(data.decode().replace(",", "|").encode("utf-16"))
    result = run(
        *("-m", machine_model, "--quality", path),
        *("--delimiter", "|", "--encoding", "utf-16"),
    )
    assert "Generators by 100 rows: held.csv" in result.stdout, result.output


def test_columns_that_the_model_does_not_know_are_named(machine_model: Path, rows: Rows) -> None:
    result = run("-m", machine_model, "--quality", rows(state="ok", other=1))
    assert result.exit_code == 0
    assert result.stderr == "Ignored columns that the model does not know: state, other\n"


def test_bad_cells_stop_it_or_are_left_out(machine_model: Path, rows: Rows) -> None:
    path = rows(speed_rpm=["fast", "slow"] + ["1200"] * 98)
    refused(run("-m", machine_model, "--quality", path), "'fast' is not a number")
    result = run("-m", machine_model, "--quality", path, "--on-bad-row", "skip")
    assert result.exit_code == 0, result.output
    assert "Generators by 98 rows: held.csv" in result.stdout
    assert result.stderr == "2 rows could not be read and were left out.\n"


def test_bad_input_is_told_and_nothing_else(
    machine_model: Path, rows: Rows, tmp_path: Path
) -> None:
    def asked(path: object, *options: str) -> Any:
        return run("-m", machine_model, "--quality", path, *options)

    refused(asked(tmp_path / "absent.csv"), "absent.csv does not exist")
    refused(asked(tmp_path), "is a directory, not a table")
    refused(asked(rows("few.csv", n=9)), "few.csv has 9 rows that can be read: at least 10 are")
    (tmp_path / "other.csv").write_text("a,b\n" + "1,2\n" * 20)
    refused(asked(tmp_path / "other.csv"), "speed_rpm")
    (tmp_path / "empty.csv").write_text("")
    refused(asked(tmp_path / "empty.csv"), "empty.csv")
    refused(run("-m", tmp_path / "no", "--quality", rows()), "does not exist; make a model")
    refused(asked(rows(), "--delimiter", "::"), "delimiter")
    refused(asked(rows(), "--plots", "-"), "name a folder")


def test_options_of_the_table_want_a_table(machine_model: Path) -> None:
    result = run("-m", machine_model, "--delimiter", ";", "--on-bad-row", "skip")
    refused(result, "--delimiter, --on-bad-row is for the table of --quality, and none is named")


def test_a_model_without_networks_is_an_error(rows: Rows, tmp_path: Path) -> None:
    toy_bundle(tmp_path / "model")
    refused(run("-m", tmp_path / "model", "--quality", rows()), "Error: ")


@pytest.mark.parametrize(("option", "value"), [("--quality", "held.csv"), ("--plots", "pictures")])
@pytest.mark.parametrize("name", ["so-gaal", "imputation"])
def test_detectors_without_a_generator_of_rows_say_so(
    name: str, option: str, value: str, machine_files: tuple[Path, Path], tmp_path: Path, rows: Rows
) -> None:
    rows()
    made = CliRunner().invoke(
        app,
        [
            *("fit", str(machine_files[0]), "-m", str(tmp_path / "model")),
            *("--detector", name, "--set", "n_steps=20", "--quiet"),
        ],
    )
    assert made.exit_code == 0, made.output
    refused(
        run("-m", tmp_path / "model", option, tmp_path / value),
        f"{option} is about what a generator makes of codes, and the detector {name} keeps none "
        "that makes rows",
    )
    assert not (tmp_path / "pictures").exists()
