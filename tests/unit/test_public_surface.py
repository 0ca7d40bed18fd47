"""What users can import, what importing costs, and the tree of errors."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import anomgan
from anomgan import errors

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "sklearn", "pandas", "onnxruntime", "onnx", "numpy", "polars", "scipy", "pyarrow")

PUBLIC = {
    "anomgan": ["AnomganError", "GANDetector", "Scorer", "__version__"],
    "anomgan.serving": [
        "Departure",
        "DriftMonitor",
        "DriftReport",
        "ScoredBatch",
        "Scorer",
        "Verdicts",
    ],
    "anomgan.tables": [
        "Batch",
        "Column",
        "ColumnKind",
        "LabelReader",
        "MISSING_TOKENS",
        "Rows",
        "Schema",
        "SchemaOptions",
        "SetAside",
        "SetAsideReason",
        "TableReader",
        "keep_normal",
        "open_table",
        "read_table",
    ],
    "anomgan.estimator": ["GANDetector", "detector_class", "fit_table"],
    "anomgan.export": ["Parity", "build_scorer", "check_parity", "run_scorer"],
    "anomgan_datasets": [
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
    ],
}

TREE = {
    "AnomganError": ("Exception", 1),
    "InputError": ("AnomganError ValueError", 2),
    "TableError": ("InputError", 2),
    "SchemaError": ("InputError", 2),
    "UsageError": ("InputError", 2),
    "ModelError": ("AnomganError RuntimeError", 2),
    "ModelNotFoundError": ("ModelError FileNotFoundError", 2),
    "ModelExistsError": ("ModelError FileExistsError", 2),
    "ModelCorruptError": ("ModelError", 2),
    "TrainingError": ("AnomganError RuntimeError", 1),
    "TrainingInterrupted": ("TrainingError", 130),
    "ExportError": ("AnomganError RuntimeError", 1),
    "OutputError": ("AnomganError OSError", 2),
    "DatasetError": ("AnomganError RuntimeError", 2),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_pinned_and_there(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == PUBLIC[module]
    for name in PUBLIC[module]:
        assert getattr(found, name) is not None


def _modules() -> list[Path]:
    folders = ("anomgan", "cli/anomgan_cli", "datasets/anomgan_datasets")
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_dunder_all_is_sorted_and_defined(path: Path) -> None:
    """Sorted as ruff sorts it: constants, classes, then the rest; no name twice."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (names,) = [
        [ast.literal_eval(element) for element in node.value.elts]
        for node in tree.body
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "__all__"
        and isinstance(node.value, ast.List)
    ] or [[]]
    if not names:
        return
    order = {n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n) for n in names}
    assert sorted(names, key=order.__getitem__) == names
    assert len(set(names)) == len(names)


def test_dir_lists_the_public_names_and_a_wrong_one_is_refused() -> None:
    assert dir(anomgan) == sorted(anomgan.__all__)
    with pytest.raises(AttributeError, match=r"^module 'anomgan' has no attribute 'Detector'$"):
        _ = anomgan.Detector


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert anomgan.__version__ == version("anomgan")


@pytest.mark.parametrize("name", TREE)
def test_errors_have_their_place(name: str) -> None:
    bases, exit_code = TREE[name]
    error = getattr(errors, name)
    assert " ".join(base.__name__ for base in error.__bases__) == bases
    assert error.exit_code == exit_code


def test_every_error_is_in_the_tree_and_drawn_in_order() -> None:
    assert sorted(errors.__all__) == sorted(TREE)
    drawn = [
        word
        for line in (errors.__doc__ or "").splitlines()
        for word in line.replace("(", " ").split()
        if word in TREE
    ]
    assert [name for name in drawn if name in TREE][: len(TREE)] == list(TREE)


def test_faults_found_together_are_kept_one_by_one() -> None:
    both = errors.SchemaError("two faults", ["row 1", "row 2"])
    assert (str(both), both.faults) == ("two faults", ("row 1", "row 2"))
    assert errors.SchemaError("one").faults == ("one",)


def _loaded(code: str) -> list[str]:
    report = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    return list(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_import_anomgan_loads_nothing_heavy() -> None:
    assert _loaded("import anomgan; dir(anomgan); anomgan.__version__") == []
    assert _loaded("import anomgan.errors, anomgan_cli.main, anomgan_cli.app") == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "from anomgan_cli.app import app\ntry:\n    app(['--help'])\nexcept SystemExit as end:\n"
        "    code = end.code\nelse:\n    code = 0\nif code: raise SystemExit(code)"
    )
    assert _loaded(code) == []


def test_serving_loads_no_training_package() -> None:
    loaded = _loaded("from anomgan import Scorer; from anomgan.serving import Scorer as Same")
    assert not {"torch", "sklearn", "pandas", "onnx", "scipy", "pyarrow"} & set(loaded)
    assert {"onnxruntime", "numpy"} <= set(loaded)
