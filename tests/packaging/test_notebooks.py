"""Every notebook runs at toy size, on the public API, and is kept without output."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PUBLIC_MODULES = {"anomgan", "anomgan.serving", "anomgan.tables", "anomgan_datasets"}
# Shown in the user guide as the way from Python.
DOCUMENTED_MODULES = {"anomgan.bundle", "anomgan.calibration", "anomgan.explanation"}

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)


def _read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def _code(notebook: nbformat.NotebookNode) -> Iterator[str]:
    return (cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_the_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMGAN_NOTEBOOK_STEPS", "40")
    # Nothing of the user's own Jupyter takes part.
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    work = tmp_path / "work"
    work.mkdir()
    notebook = _read(path)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    )
    client.execute()
    noise = [
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert noise == []


def test_the_notebook_uses_the_public_api_only(path: Path) -> None:
    for source in _code(_read(path)):
        for node in ast.walk(ast.parse(source)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            ours = {name for name in names if name.startswith("anomgan")}
            assert ours <= PUBLIC_MODULES | DOCUMENTED_MODULES
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_") or node.attr.startswith("__")


def test_the_inside_of_a_model_is_named_as_internal(path: Path) -> None:
    notebook = _read(path)
    if any(".model_" in source for source in _code(notebook)):
        prose = " ".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        assert "`detector.model_`, which is **internal**" in prose


def test_the_notebook_is_kept_without_output(path: Path) -> None:
    for cell in _read(path).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
