"""The halves of EGBAD's and ALAD's code, from real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from anomgan.errors import DatasetError
from anomgan_datasets import load, papers_split


def test_kdd_has_the_rows_that_the_papers_count(data_dir: Path) -> None:
    dataset = load("kdd99_10percent")
    split = papers_split(dataset)
    assert len(split.train_rows) == 198_361
    assert int((split.y_test == 0).sum()) == 198_382
    assert int((split.y_test == 1).sum()) == 48_629
    drawn = pd.DataFrame(index=range(len(dataset.y))).sample(frac=0.5, random_state=42).index
    expected = np.sort(drawn[dataset.y[drawn] == 0])
    np.testing.assert_array_equal(split.train_rows, expected)


def test_arrhythmia_is_halved_as_scikit_learn_does(data_dir: Path) -> None:
    dataset = load("arrhythmia_odds")
    train, test = train_test_split(np.arange(452), test_size=0.5, random_state=42)
    split = papers_split(dataset, contaminated=True)
    np.testing.assert_array_equal(split.train_rows, np.sort(train))
    np.testing.assert_array_equal(split.test_rows, np.sort(test))
    assert len(papers_split(dataset).train_rows) == 192


def test_other_sets_are_refused() -> None:
    with pytest.raises(DatasetError, match="is in no paper's protocol"):
        papers_split(load("breast_cancer"))
