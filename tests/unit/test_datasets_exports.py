"""CSV files for the command line: the right rows, the right columns, cells left as they were."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anomgan_datasets
from anomgan.errors import DatasetError
from anomgan_datasets import card, csv_files, exports, load, names, table_split


@pytest.fixture(scope="module")
def data_dir() -> Path:
    root = anomgan_datasets.data_dir()
    if not (root / "README.md").is_file():
        pytest.skip(f"no data at {root}: set ANOMGAN_DATA_DIR")
    return root


@pytest.mark.parametrize("name", names("tables"))
def test_tables_come_out_as_their_split(name, data_dir, tmp_path):
    train_csv, test_csv, label, normal = csv_files(name, tmp_path, 1, data_dir=data_dir)
    assert (train_csv.name, test_csv.name) == (f"{name}-train.csv", f"{name}-test.csv")
    split, reader = table_split(load(name, data_dir=data_dir), 1), card(name).reader
    y_train = np.zeros(len(split.X_train), dtype=np.int8)
    for path, X, y in (
        (train_csv, split.X_train, y_train),
        (test_csv, split.X_test, split.y_test),
    ):
        frame = pd.read_csv(
            path,
            sep=reader.delimiter,
            encoding="utf-8-sig",
            skipinitialspace=reader.strip,
            keep_default_na=False,
            na_values=["", *reader.missing],
            dtype={label: str},
            low_memory=False,
        )
        np.testing.assert_array_equal((frame.pop(label) != normal).astype(np.int8), y)
        pd.testing.assert_frame_equal(frame, X, check_dtype=False)
    assert label == reader.label


def test_cells_are_written_as_they_stand_in_the_source(data_dir, tmp_path):
    bank = csv_files("bank_additional", tmp_path, 0, data_dir=data_dir)[0].read_bytes()
    assert bank.startswith(b'"age";"job";"marital";')
    assert b'"duration"' not in bank
    assert bank.count(b"\r\n") == bank.count(b"\n") == 1 + int(0.6 * 36_548)
    claims = csv_files("vehicle_claims_fraud", tmp_path, 0, data_dir=data_dir)[1].read_text()
    assert ',"more than 69,000",' in claims
    adult = csv_files("adult_census", tmp_path, 0, data_dir=data_dir)[0].read_text()
    assert "\n54, ?, Some-college, 10, " in adult
    machines = csv_files("ai4i2020", tmp_path, 0, data_dir=data_dir)[0].read_bytes()
    assert machines.startswith(b"\xef\xbb\xbfType,Air temperature [K],")


def test_every_spelling_of_normal_becomes_the_one_of_training(data_dir, tmp_path):
    _, test_csv, label, normal = csv_files("adult_census", tmp_path, 0, data_dir=data_dir)
    assert (label, normal) == ("income", "<=50K")
    with test_csv.open(encoding="utf-8", newline="") as file:
        labels = [row[label].strip() for row in csv.DictReader(file)]
    assert {text: labels.count(text) for text in set(labels)} == {"<=50K": 12_435, ">50K.": 3_846}


def test_other_sets_get_a_label_column(tmp_path):
    train_csv, test_csv, label, normal = csv_files("breast_cancer", tmp_path / "new", 0)
    assert (label, normal) == ("label", "normal")
    train, test = pd.read_csv(train_csv), pd.read_csv(test_csv)
    split = table_split(load("breast_cancer"), 0)
    assert set(train.pop(label)) == {"normal"}
    np.testing.assert_array_equal(test.pop(label) == "anomaly", split.y_test == 1)
    pd.testing.assert_frame_equal(train, split.X_train)
    pd.testing.assert_frame_equal(test, split.X_test)


def test_times_and_gaps_survive_the_way_through_a_file(tmp_path):
    train_csv = csv_files("machine_log", tmp_path, 0)[0]
    train = pd.read_csv(train_csv, parse_dates=["time"]).drop(columns="label")
    pd.testing.assert_frame_equal(
        train, table_split(load("machine_log"), 0).X_train, check_dtype=False
    )


def test_the_seed_decides_and_nothing_else(tmp_path):
    first = csv_files("wine", tmp_path / "a", 0)
    again = csv_files("wine", tmp_path / "b", 0)
    other = csv_files("wine", tmp_path / "c", 1)
    assert first[0].read_bytes() == again[0].read_bytes()
    assert first[0].read_bytes() != other[0].read_bytes()


def test_absent_data_leaves_no_file(tmp_path):
    with pytest.raises(DatasetError, match="ANOMGAN_DATA_DIR"):
        csv_files("ai4i2020", tmp_path / "out", 0, data_dir=tmp_path)
    assert not list(tmp_path.rglob("*.csv"))


@given(
    rows=st.lists(
        st.lists(st.text(alphabet='ab ,;"', min_size=1, max_size=6), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    ),
    delimiter=st.sampled_from([",", ";"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_cutting_into_raw_cells_loses_nothing(rows, delimiter, quoting, newline):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=newline).writerows(rows)
    found = card("ai4i2020")
    found = dataclasses.replace(
        found, reader=dataclasses.replace(found.reader, delimiter=delimiter)
    )
    table = exports._parse(gzip.compress(buffer.getvalue().encode()), found)
    raw = [table.header, *table.rows]
    assert table.newline == newline
    assert "".join(delimiter.join(row) + newline for row in raw) == buffer.getvalue()
    assert [[next(csv.reader([cell], delimiter=delimiter)) for cell in row] for row in raw] == [
        [[cell] for cell in row] for row in rows
    ]
