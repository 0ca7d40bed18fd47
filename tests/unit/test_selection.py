"""Rows picked out of a table by number, identifier or score, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from toy_model import toy_bundle, toy_table

from anomgan.errors import SchemaError, UsageError
from anomgan.serving import Scorer
from anomgan.serving.selection import MOST_OF_ONE_NAME, Selection, select_rows
from anomgan.tables.readers import open_table


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    path = tmp_path_factory.mktemp("selection") / "model"
    toy_bundle(path)
    return Scorer.open(path)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "new.csv"
    toy_table(300, seed=1).write_csv(path)
    return path


def pick(scorer: Scorer, table: Any, **how: Any) -> Selection:
    with open_table(table, batch_rows=7, on_bad_row="skip") as reader:
        return select_rows(scorer, reader, **how)


def numbers(selection: Selection) -> list[int]:
    assert all(len(item.rows.numeric) == len(item.verdicts) == 1 for item in selection.rows)
    assert [i.verdicts.first_row for i in selection.rows] == [
        i.batch.first_row for i in selection.rows
    ]
    return [item.rows.first_row for item in selection.rows]


def test_rows_come_as_asked_for_and_score_as_in_the_whole_table(scorer: Scorer, new: Path) -> None:
    scores = scorer.score(pl.read_csv(new)).score
    found = pick(scorer, new, numbers=[300, 1, 8, 7, 1])
    assert numbers(found) == [300, 1, 8, 7]
    assert [item.verdicts.score[0] for item in found.rows] == [
        scores[n - 1] for n in (300, 1, 8, 7)
    ]
    assert found.rows[0].batch.place(0) == "row 300 (line 301)"


def test_reading_stops_after_the_last_row_asked_for(scorer: Scorer, new: Path) -> None:
    assert pick(scorer, new, numbers=[3, 12]).n_read == 14


def test_the_highest_scores_are_those_of_a_full_sort(scorer: Scorer, new: Path) -> None:
    scores = scorer.score(pl.read_csv(new)).score
    order = np.argsort(-scores, kind="stable") + 1
    for top in (1, 5, 40, 300, 1000):
        found = pick(scorer, new, top=top)
        assert numbers(found) == order[:top].tolist()
        assert found.n_read == 300
    assert numbers(pick(scorer, new)) == order[:1].tolist()


def test_of_equal_scores_the_earlier_row_is_taken(scorer: Scorer) -> None:
    frame = toy_table(1, seed=1)
    assert numbers(pick(scorer, pl.concat([frame] * 30), top=3)) == [1, 2, 3]


def test_identifiers_are_found_wherever_they_are(scorer: Scorer, new: Path) -> None:
    frame = pl.read_csv(new)
    twice = pl.concat([frame, frame[[10]].with_columns(part_id=pl.lit(" P1-00010 "))])
    found = pick(scorer, twice, identifiers=["P1-00200", "P1-00010", "P1-00200"])
    assert numbers(found) == [201, 11, 301]
    assert found.rows[0].rows.ids == ["P1-00200"]


def test_identifiers_may_be_numbers(tmp_path: Path) -> None:
    frame = toy_table().with_columns(part_id=pl.int_range(400) + 7_000_000)
    toy_bundle(tmp_path / "model", frame)
    scorer = Scorer.open(tmp_path / "model")
    assert scorer.schema.id_column == "part_id"
    assert numbers(pick(scorer, frame, identifiers=["7000005"])) == [6]


def test_a_value_that_names_many_rows_is_no_identifier(scorer: Scorer, new: Path) -> None:
    frame = pl.concat([pl.read_csv(new)[[4]]] * (MOST_OF_ONE_NAME + 1))
    with pytest.raises(UsageError, match=r"--id P1-00004: more than 100 rows .*: --row 1$"):
        pick(scorer, frame, identifiers=["P1-00004"])
    assert len(pick(scorer, frame[1:], identifiers=["P1-00004"]).rows) == MOST_OF_ONE_NAME


def test_what_is_not_there_is_told_together(scorer: Scorer, new: Path) -> None:
    with pytest.raises(UsageError) as caught:
        pick(scorer, new, numbers=[900, 5, 301])
    assert "has 300 rows" in str(caught.value)
    assert "give a number from 1 to 300" in str(caught.value)
    assert caught.value.faults == ("--row 900: no such row", "--row 301: no such row")
    with pytest.raises(UsageError) as caught:
        pick(scorer, new, identifiers=["P1-00001", "nobody"])
    assert caught.value.faults == ("--id nobody: no such row",)
    assert "column 'part_id', 300 rows" in str(caught.value)
    assert "--row" in str(caught.value)


def test_ways_that_exclude_each_other_or_make_no_sense(scorer: Scorer, new: Path) -> None:
    for how, message in [
        ({"numbers": [1], "top": 2}, "--row and --top are different ways"),
        ({"numbers": [1], "identifiers": ["a"]}, "--row and --id are different ways"),
        ({"numbers": [0]}, "--row 0: rows are counted from 1"),
        ({"top": 0}, "--top must be at least 1, got 0"),
    ]:
        with pytest.raises(UsageError, match=message):
            pick(scorer, new, **how)
    with pytest.raises(UsageError, match="lacks the identifier column 'part_id'; it has"):
        pick(scorer, pl.read_csv(new).drop("part_id"), identifiers=["a"])


def test_a_model_without_an_identifier_column_says_so(tmp_path: Path) -> None:
    toy_bundle(tmp_path / "model", toy_table().drop("part_id"))
    with pytest.raises(UsageError, match="no identifier column; name rows by number"):
        pick(Scorer.open(tmp_path / "model"), toy_table(), identifiers=["a"])


def test_unreadable_rows_matter_only_where_they_are_asked_for(
    scorer: Scorer, new: Path, tmp_path: Path
) -> None:
    lines = new.read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[1], "broken")
    lines[9] += ",one too many"
    table = tmp_path / "broken.csv"
    table.write_text("\n".join(lines) + "\n")
    assert numbers(pick(scorer, table, numbers=[4])) == [4]
    found = pick(scorer, table, top=2)
    assert (found.n_read, found.n_unreadable) == (300, 2)
    with pytest.raises(SchemaError) as caught:
        pick(scorer, table, numbers=[3, 4, 9])
    assert [fault.partition(",")[0] for fault in caught.value.faults] == [
        "row 3 (line 4)",
        "row 9 (line 10)",
    ]
    assert "broken" in caught.value.faults[0]
    with pytest.raises(SchemaError, match="no row has a score") as caught:
        pick(scorer, pl.DataFrame({"mode": ["run"], "speed": ["1"], "pressure": ["x"]}))
    assert "row 1" in caught.value.faults[0]
