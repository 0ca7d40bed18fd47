"""Models of every format version load, and say of their rows what they said when written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from golden_models import GOLDEN, MODELS, golden_rows, odd_rows, verdicts_of
from polars.testing import assert_frame_equal

from anomgan.bundle import FORMAT_VERSION, Bundle
from anomgan.errors import ModelCorruptError
from anomgan.estimator import detector_class

# Another processor rounds otherwise, through the steps of the inversion (anomgan.serving.scorer);
# a score that passes calibration scores moves its p-value in steps.
SCORE_RTOL, P_VALUE_ATOL = 1e-3, 0.03
TORCH_RTOL = 1e-3
KEPT = sorted(path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("format-*/*/"))
WITH_TORCH = [name for name in KEPT if not name.startswith("format-1/")]


def _expected(name: str) -> pl.DataFrame:
    return pl.read_csv(GOLDEN / f"{name}.csv")


def test_every_format_up_to_the_present_one_has_models() -> None:
    versions = {int(name.split("/")[0].removeprefix("format-")) for name in KEPT}
    assert versions == set(range(1, FORMAT_VERSION + 1)), (
        "write models of the new format: python tests/support/golden_models.py"
    )
    present = {name.split("/")[1] for name in KEPT if name.startswith(f"format-{FORMAT_VERSION}/")}
    assert present == set(MODELS)
    for name in KEPT:
        assert Bundle.open(GOLDEN / name).manifest.format_version == int(name.split("/")[0][7:])
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*")) < 1_000_000


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("what", ["directory", "scorer alone"])
def test_a_kept_model_says_what_it_said(name: str, what: str) -> None:
    path = GOLDEN / name
    found = verdicts_of(
        path if what == "directory" else path / "scorer.onnx", path.parent / "new.csv"
    )
    expected = _expected(name)
    assert found.columns == expected.columns
    score, stated = found["score"].to_numpy(), expected["score"].to_numpy()
    np.testing.assert_allclose(score, stated, rtol=SCORE_RTOL)
    np.testing.assert_allclose(found["p_value"], expected["p_value"], atol=P_VALUE_ATOL)
    shares = [column for column in found.columns if column.startswith("contribution_")]
    slack = SCORE_RTOL * (1.0 + stated[:, None])
    assert (np.abs(found[shares].to_numpy() - expected[shares].to_numpy()) <= slack).all()
    assert 1 <= expected["is_anomaly"].sum() < len(expected) / 2  # or nothing is told apart


@pytest.mark.parametrize("name", WITH_TORCH)
def test_a_kept_model_loads_into_torch_and_says_the_same(name: str) -> None:
    path = GOLDEN / name
    detector = detector_class(str(Bundle.open(path).manifest.parameters["detector"]))
    rows = pl.read_csv(path.parent / "new.csv")
    found = detector.load(path).anomaly_score(rows)
    np.testing.assert_allclose(found, _expected(name)["score"].to_numpy(), rtol=TORCH_RTOL)


def test_a_model_whose_weights_mean_something_else_is_refused_by_torch_alone() -> None:
    with pytest.raises(ModelCorruptError, match="has format 1, of an earlier anomgan"):
        detector_class("anomgan").load(GOLDEN / "format-1" / "flagship")


def test_the_rows_are_those_of_their_seed() -> None:
    folder = GOLDEN / f"format-{FORMAT_VERSION}"
    for kept, made in (
        ("normal.csv", golden_rows(160, seed=1)),
        ("new.csv", odd_rows(golden_rows(24, seed=2))),
    ):
        assert_frame_equal(
            pl.read_csv(folder / kept, infer_schema=False),
            made.cast(pl.String),
            check_exact=True,
        )


def test_the_command_leaves_what_is_there() -> None:
    done = subprocess.run(
        [sys.executable, str(GOLDEN.parent / "support" / "golden_models.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is there, and stays as it is" in done.stderr
