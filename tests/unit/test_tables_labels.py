"""Normal rows of a labelled table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomgan.errors import UsageError
from anomgan.tables import keep_normal, open_table
from anomgan.tables.labels import LabelReader, anomalous


@pytest.mark.parametrize(
    ("labels", "normal", "kept"),
    [
        (["ok", " ok ", "bad", None], ["ok"], [0, 1]),
        (["<=50K", "<=50K.", ">50K"], ["<=50K", "<=50K."], [0, 1]),
        (["0", "0.0", "1", "x"], ["0"], [0, 1]),
        ([0, 1, None, 0], ["0"], [0, 3]),
        ([0.0, 1.0, 0.5], ["0"], [0]),
        ([False, True], ["False"], [0]),
        (["", "NA", "a"], ["a"], [2]),
        (["a", "A"], [" a "], [0]),
    ],
)
def test_values_are_compared_as_stripped_text_or_as_numbers(
    labels: list[Any], normal: list[str], kept: list[int]
) -> None:
    frame = pl.DataFrame({"row": range(len(labels)), "y": labels}, strict=False)
    assert keep_normal(frame, "y", normal, source="t")["row"].to_list() == kept


def test_a_missing_label_can_be_the_normal_value() -> None:
    frame = pl.DataFrame({"y": ["", "NA", "x", None]})
    assert keep_normal(frame, "y", ["NA"], source="t").height == 1
    assert keep_normal(frame, "y", [""], source="t").height == 3


def told(labels: list[Any], normal: list[str]) -> list[bool]:
    return anomalous(pl.DataFrame({"y": labels}, strict=False), "y", normal, "t.csv").tolist()


@pytest.mark.parametrize(
    ("labels", "normal", "expected"),
    [
        ([0, 1, 0], [], [0, 1, 0]),
        ([0.0, 1.0], [], [0, 1]),
        ([False, True], [], [0, 1]),
        (["0", " 1.0 ", "0.0"], [], [0, 1, 0]),
        (["FALSE", "true"], [], [0, 1]),
        (["Normal", "anomaly", "normal "], [], [0, 1, 0]),
        (["ok", "worn", " ok", "broken"], ["ok"], [0, 1, 0, 1]),
        (["ok", "worn", "fine"], ["ok", "fine"], [0, 1, 0]),
        ([2, 1, 2], ["2"], [0, 1, 0]),
        (["2.0", "x"], ["2"], [0, 1]),
        (["none", "leak"], ["none"], [0, 1]),
        (["None", "leak"], ["None"], [0, 1]),
        (["", "leak", None, "NA"], [""], [0, 1, 0, 0]),
        ([None, 1.0], [""], [0, 1]),
    ],
)
def test_anomalous_rows_are_told_by_label(
    labels: list[Any], normal: list[str], expected: list[int]
) -> None:
    assert told(labels, normal) == [bool(flag) for flag in expected]


@pytest.mark.parametrize(
    ("labels", "normal", "message"),
    [
        (
            ["ok", "0", "1"],
            [],
            "t.csv: which values of 'y' are normal? Name them with --normal VALUE; there are "
            "ok, 0, 1",
        ),
        (
            ["0", "", "1"],
            [],
            "t.csv: row 2 has no label in column 'y': label every row or leave such rows out; "
            "where no label means normal, give --normal ''",
        ),
        (
            [1, 1],
            [],
            "t.csv: no row has '0' or '0.0' or 'false' or 'normal' in label column 'y': name the "
            "normal value among those found (with their rows): '1' (2)",
        ),
        (
            ["worn", "worn", "leak"],
            ["ok"],
            "t.csv: no row has 'ok' in label column 'y': name the normal value among those found "
            "(with their rows): 'worn' (2), 'leak' (1)",
        ),
        (
            [0, 0],
            [],
            "t.csv: every row is normal by 'y'; labelled anomalies are needed as well",
        ),
    ],
)
def test_labels_that_do_not_tell(labels: list[Any], normal: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        told(labels, normal)
    assert str(caught.value) == message


def test_batches_are_read_as_the_whole_is(tmp_path: Path) -> None:
    cells = ["0", "0", "1", "0", "1.0", "0", "0"]
    table = tmp_path / "t.csv"
    table.write_text("x,y\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    reader = LabelReader("y", (), "t.csv")
    parts: list[bool] = []
    for batch in open_table(table, batch_rows=3):
        parts += reader.read(batch.frame, batch.first_row, batch.line_numbers).tolist()
    reader.finish()
    assert parts == told(cells, [])
    assert (reader.n_normal, reader.n_anomalous) == (5, 2)


def test_a_missing_label_is_named_by_its_row_and_line_in_the_file(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("x,y\n1,0\n\n2,1\n3,0\n4,\n")
    reader = LabelReader("y", (), "t.csv")
    first, second = open_table(table, batch_rows=2)
    reader.read(first.frame, first.first_row, first.line_numbers)
    with pytest.raises(UsageError, match=r"^t.csv: row 4 \(line 6\) has no label in column 'y'"):
        reader.read(second.frame, second.first_row, second.line_numbers)


def test_a_later_batch_may_be_of_one_kind_only() -> None:
    reader = LabelReader("y", (), "t.csv")
    reader.read(pl.DataFrame({"y": [0, 0]}))
    with pytest.raises(UsageError, match="every row is normal by 'y'"):
        reader.finish()
    reader.read(pl.DataFrame({"y": [1, 1]}), 3)
    reader.finish()
