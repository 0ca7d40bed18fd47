"""Datasets for anomgan: cards, loaders, the project's splits, and synthetic sets.

::

    names("adbench")                  which sets there are
    card("ai4i2020").normal           what is normal, where it comes from, what to beware of
    load("ai4i2020")                  raw rows: Dataset(card, X, y, train, guilty)
    clean_split(X, y, seed)           protocol `clean`, for accuracy figures
    published_split(X, y, seed)       protocol `published`, to compare with printed figures only
    table_split(dataset, seed)        a set's own train and test files, else 60/40
    csv_files(name, directory, seed)  the two CSV files that a user would have

Files are looked for below the folder that the environment variable ANOMGAN_DATA_DIR names; sets of
the groups `embedded` and `synthetic` need none.
"""

from anomgan_datasets.exports import csv_files
from anomgan_datasets.loaders import Dataset, data_dir, load
from anomgan_datasets.registry import Card, Part, Reader, Yardstick, card, names
from anomgan_datasets.splits import (
    Split,
    clean_split,
    papers_split,
    published_split,
    table_split,
)
from anomgan_datasets.synthetic import (
    Synthetic,
    gaussian_blocks,
    gaussian_grid,
    gaussian_ring,
    machine_log,
)

__all__ = [
    "Card",
    "Dataset",
    "Part",
    "Reader",
    "Split",
    "Synthetic",
    "Yardstick",
    "card",
    "clean_split",
    "csv_files",
    "data_dir",
    "gaussian_blocks",
    "gaussian_grid",
    "gaussian_ring",
    "load",
    "machine_log",
    "names",
    "papers_split",
    "published_split",
    "table_split",
]
