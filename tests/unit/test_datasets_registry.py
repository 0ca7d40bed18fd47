"""Cards: complete, and the same as what the data directory says about itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import anomgan_datasets
from anomgan.errors import DatasetError
from anomgan_datasets import card, names
from anomgan_datasets.registry import GROUPS

FOLDER_OF_GROUP = {"tables": "tabular", "papers": "papers"}


@pytest.fixture(scope="module")
def data_dir() -> Path:
    root = anomgan_datasets.data_dir()
    if not (root / "README.md").is_file():
        pytest.skip(f"no data at {root}: set ANOMGAN_DATA_DIR")
    return root


def test_public_names_are_sorted_and_exist():
    assert anomgan_datasets.__all__ == sorted(anomgan_datasets.__all__)
    assert all(hasattr(anomgan_datasets, name) for name in anomgan_datasets.__all__)


def test_names_are_distinct_and_fall_into_groups():
    assert len(set(names())) == len(names())
    assert names() == tuple(name for group in GROUPS for name in names(group))
    assert {group: len(names(group)) for group in GROUPS} == {
        "embedded": 4,
        "tables": 9,
        "adbench": 23,
        "papers": 2,
        "synthetic": 4,
    }


@pytest.mark.parametrize("name", names())
def test_a_card_is_complete(name):
    found = card(name)
    for text in (found.title, found.source, found.licence, found.normal, found.anomalous):
        assert text == text.strip() != ""
    assert found.origin
    assert found.use
    assert 0 < found.n_anomalies < found.n_rows
    assert 0 < found.anomaly_rate < 1
    assert found.n_columns > 0
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for _, digest in found.files)
    assert found.offline == (found.group in {"embedded", "synthetic"})
    assert {part.file for part in found.parts} <= {path for path, _ in found.files} | {""}


def test_the_register_cannot_be_altered():
    with pytest.raises(AttributeError):
        card("wine").title = "other"


@pytest.mark.parametrize(
    ("wrong", "offered"),
    [("brest_cancer", "breast_cancer"), ("Wilt", "44_Wilt"), ("AI4I", "ai4i2020")],
)
def test_an_unknown_name_offers_close_ones(wrong, offered):
    message = f"no dataset is called '{wrong}'; did you mean .*{offered}"
    with pytest.raises(DatasetError, match=message):
        card(wrong)


def test_a_name_like_no_other_says_how_to_list_them():
    with pytest.raises(
        DatasetError, match=r"called 'q' \(anomgan_datasets\.names\(\) lists all 42"
    ):
        card("q")


def test_an_unknown_group_lists_the_groups():
    with pytest.raises(DatasetError, match="no dataset group 'tabular'; the groups are: embedded"):
        names("tabular")


@pytest.mark.parametrize("group", ["tables", "papers"])
def test_cards_agree_with_the_meta_files(group, data_dir):
    folder = FOLDER_OF_GROUP[group]
    metas = {path.parent.name: path for path in (data_dir / folder).glob("*/meta.json")}
    assert set(metas) == set(names(group))
    for name, path in metas.items():
        meta, found = json.loads(path.read_text(encoding="utf-8")), card(name)
        prefix = f"{folder}/{name}/"
        assert [[p.name, p.n_rows, p.n_anomalies] for p in found.parts] == meta["expect"]
        assert [list(pair) for pair in found.files] == [
            [prefix + file["file"], file["sha256"]] for file in meta["files"]
        ]
        assert [part.file for part in found.parts] == [
            prefix + file for file in meta["read"].values()
        ]
        assert list(found.reader.drop) == meta["drop"]
        assert found.reader.label == meta["label"].get("column")
        assert found.reader.delimiter == meta.get("sep", ",")
        assert list(found.reader.missing) == meta.get("na", [])
        assert found.reader.strip == meta.get("skipinitialspace", False)
        assert {str(value) for value in meta["label"].get("normal", [])} <= set(
            found.reader.normal_values
        )
        assert found.yardstick.knn1_auroc == meta["yardstick"]["knn1_auroc"]
        assert found.yardstick.iforest_auroc == meta["yardstick"]["iforest_auroc"]


def test_cards_agree_with_the_adbench_table(data_dir):
    row = re.compile(r"\| (\w+) \| (\d+) \| (\d+) \| ([\d.]+) \| `([0-9a-f]{64})` \|")
    table = row.findall((data_dir / "adbench" / "README.md").read_text(encoding="utf-8"))
    assert [name for name, *_ in table] == list(names("adbench"))
    for name, n_rows, n_columns, percent, digest in table:
        found = card(name)
        assert (found.n_rows, found.n_columns) == (int(n_rows), int(n_columns))
        assert 100 * found.anomaly_rate == pytest.approx(float(percent), abs=0.006)
        assert found.files == ((f"adbench/{name}.npz", digest),)
