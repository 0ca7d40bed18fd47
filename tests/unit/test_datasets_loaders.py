"""Loaders: right counts on the real files, cells as they stand, and clear errors."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import anomgan_datasets
from anomgan.errors import AnomganError, DatasetError
from anomgan_datasets import card, load, loaders, names

META_FOLDERS = {"tables": "tabular", "papers": "papers"}


@pytest.fixture(scope="module")
def data_dir() -> Path:
    root = anomgan_datasets.data_dir()
    if not (root / "README.md").is_file():
        pytest.skip(f"no data at {root}: set ANOMGAN_DATA_DIR")
    return root


@pytest.mark.parametrize("name", [*names("tables"), *names("papers")])
def test_counts_are_those_that_meta_json_expects(name, data_dir):
    folder = data_dir / META_FOLDERS[card(name).group] / name
    expected = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["expect"]
    dataset = load(name, data_dir=data_dir)
    got = [["train", len(dataset.train[0]), dataset.train[1].sum()]] if dataset.train else []
    got.append(["test" if dataset.train else "all", len(dataset.X), dataset.y.sum()])
    assert got == expected
    assert dataset.y.dtype == np.int8
    assert set(np.unique(dataset.y)) == {0, 1}
    left_out = {*dataset.card.reader.drop, dataset.card.reader.label}
    assert not left_out & set(dataset.X.columns)
    if dataset.train:
        assert list(dataset.train[0].columns) == list(dataset.X.columns)


@pytest.mark.parametrize("name", names("adbench"))
def test_adbench_arrays_come_back_unchanged(name, data_dir):
    dataset = load(name, data_dir=data_dir)
    with np.load(data_dir / "adbench" / f"{name}.npz") as arrays:
        np.testing.assert_array_equal(dataset.X.to_numpy(), arrays["X"])
        np.testing.assert_array_equal(dataset.y, arrays["y"])
    assert list(dataset.X.columns)[:2] == ["x0", "x1"]


def test_question_marks_are_missing_and_leading_blanks_are_gone(data_dir):
    X, y = load("adult_census", data_dir=data_dir).train
    with gzip.open(data_dir / "tabular/adult_census/train.csv.gz", "rt") as file:
        assert X.isna().sum().sum() == file.read().count("?") == 4262
    assert X["workclass"].isna().sum() == 1836
    assert X["workclass"].value_counts()["Private"] == 22696
    assert list(y[:3]) == [0, 0, 0]
    assert pd.api.types.is_integer_dtype(X["age"])


def test_both_spellings_of_a_normal_label_are_normal(data_dir):
    dataset = load("adult_census", data_dir=data_dir)  # "<=50K" in training, "<=50K." in test
    assert dataset.y.mean() == pytest.approx(0.2362, abs=1e-4)
    assert dataset.train[1].mean() == pytest.approx(0.2408, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "n_missing"), [("ozone_eighthr", 14_937), ("arrhythmia_raw", 408), ("ai4i2020", 0)]
)
def test_missing_cells_are_counted(name, n_missing, data_dir):
    assert load(name, data_dir=data_dir).X.isna().sum().sum() == n_missing


def test_words_that_look_missing_stay_words(data_dir):
    assert (load("bank_additional", data_dir=data_dir).X["default"] == "unknown").sum() == 8597
    claims = load("vehicle_claims_fraud", data_dir=data_dir).X
    assert (claims["PastNumberOfClaims"] == "none").sum() == 4352
    assert "more than 69,000" in set(claims["VehiclePrice"])  # a delimiter inside quotes


def test_attacks_are_the_normal_class_of_kdd99(data_dir):
    dataset = load("kdd99_10percent", data_dir=data_dir)
    assert dataset.y[0] == 1  # the file begins with a row called `normal.`
    assert list(dataset.X.columns[:4]) == ["duration", "protocol_type", "service", "flag"]


@pytest.mark.parametrize(
    ("name", "first", "n_normal"),
    [
        ("breast_cancer", "mean radius", 357),
        ("digits", "pixel_0_0", 1617),
        ("iris", "sepal length (cm)", 100),
        ("wine", "alcohol", 130),
    ],
)
def test_embedded_sets_need_no_data_directory(name, first, n_normal, monkeypatch, tmp_path):
    monkeypatch.setenv("ANOMGAN_DATA_DIR", str(tmp_path / "nowhere"))
    dataset = load(name)
    assert dataset.X.columns[0] == first
    assert (dataset.y == 0).sum() == n_normal
    assert len(dataset.X) == len(dataset.y) == dataset.card.n_rows


def test_absent_files_name_the_variable_and_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("ANOMGAN_DATA_DIR", str(tmp_path))
    with pytest.raises(DatasetError) as caught:
        load("adult_census")
    message = str(caught.value)
    assert message.startswith("dataset 'adult_census' cannot be read:\n")
    for file in ("train.csv.gz", "test.csv.gz"):
        path = tmp_path / "tabular" / "adult_census" / file
        assert f"  {path}: No such file or directory\n" in message
    assert message.endswith(
        f"Set ANOMGAN_DATA_DIR (now: {tmp_path}) to the folder that holds "
        "tabular/adult_census/train.csv.gz"
    )
    assert isinstance(caught.value, AnomganError)
    assert caught.value.exit_code == 2


def test_an_altered_file_is_refused(data_dir, tmp_path):
    path = "adbench/45_wine.npz"
    (tmp_path / "adbench").mkdir()
    content = bytearray((data_dir / path).read_bytes())
    content[-1] ^= 1
    (tmp_path / path).write_bytes(content)
    with pytest.raises(DatasetError, match=r"45_wine\.npz: altered, sha256 \w{64} instead of d5ad"):
        load("45_wine", data_dir=tmp_path)


def test_the_argument_wins_over_the_variable(data_dir, monkeypatch, tmp_path):
    (tmp_path / "adbench").mkdir()
    shutil.copy(data_dir / "adbench" / "45_wine.npz", tmp_path / "adbench")
    monkeypatch.setenv("ANOMGAN_DATA_DIR", str(tmp_path / "nowhere"))
    assert len(load("45_wine", data_dir=tmp_path).X) == 129
    with pytest.raises(DatasetError, match="nowhere"):
        load("45_wine")


def test_without_the_variable_the_checkout_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("ANOMGAN_DATA_DIR", "")
    (tmp_path / "repository").mkdir()
    monkeypatch.setattr(loaders, "__file__", str(tmp_path / "repository/datasets/pkg/loaders.py"))
    with pytest.raises(DatasetError, match="no data directory: set ANOMGAN_DATA_DIR"):
        anomgan_datasets.data_dir()
    (tmp_path / "repository" / "pyproject.toml").touch()
    assert anomgan_datasets.data_dir() == tmp_path / "shared" / "data"


def test_counts_that_differ_from_the_card_are_refused(monkeypatch):
    wrong = dataclasses.replace(card("wine"), n_columns=14)
    monkeypatch.setattr(loaders, "card", lambda name: wrong)
    with pytest.raises(DatasetError, match=r"'wine', part 'all'.* are \(178, 48, 13\).*, 14\)"):
        load("wine")
