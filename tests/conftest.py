"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# Before torch is loaded, and for the children of tests too: where other processes are busy on the
# same cores, two threads that wait for each other are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says on a busy machine nothing about the code.
settings.register_profile("anomgan", deadline=None)
settings.load_profile("anomgan")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The source checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    named = os.environ.get("ANOMGAN_DATA_DIR")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "tabular").is_dir():
        pytest.skip(f"no data at {folder}: set ANOMGAN_DATA_DIR to the folder that holds tabular/")
    return folder


@pytest.fixture(scope="session")
def tumour_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Real tables on disk, numbers only: normal (benign) rows to learn from, labelled rows.

    Both have the columns of scikit-learn's breast-cancer set and a column `label` with the
    values `normal` and `anomaly`. They are shared by the session: do not write to them.
    """
    from anomgan_datasets import csv_files

    train, test, _, _ = csv_files("breast_cancer", tmp_path_factory.mktemp("tumours"), seed=0)
    return train, test


@pytest.fixture(scope="session")
def machine_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tables of a simulated machine on disk, all kinds of columns and missing cells.

    500 normal rows to learn from, and 200 rows of which half are faulty. They are shared by the
    session: do not write to them.
    """
    import pandas as pd

    from anomgan_datasets import machine_log

    log = machine_log(n_normal=600, n_anomalies=100, seed=0)
    folder = tmp_path_factory.mktemp("machine")
    train, test = folder / "normal.csv", folder / "new.csv"
    normal, faulty = log.X[log.y == 0], log.X[log.y == 1]
    normal.iloc[:500].to_csv(train, index=False)
    pd.concat([normal.iloc[500:], faulty]).to_csv(test, index=False)
    return train, test


@pytest.fixture(scope="session")
def machine_model(
    machine_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small trained model of the simulated machine: numbers, dates, texts, missing cells.

    Trained for 60 steps only: good for interfaces, not for accuracy. Shared by the session.
    """
    from anomgan.estimator import fit_table
    from anomgan.tables import SchemaOptions, read_table

    model = tmp_path_factory.mktemp("machine_model") / "anomgan-model"
    fit_table(
        read_table(machine_files[0]),
        options=SchemaOptions(),
        parameters={"n_steps": 60, "random_state": 0, "device": "cpu"},
        source="normal.csv",
        output=model,
    )
    return model
