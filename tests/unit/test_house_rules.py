"""STYLE as tests: what product code does not do, and how long it gets."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = (
    REPOSITORY / "anomgan",
    REPOSITORY / "cli" / "anomgan_cli",
    REPOSITORY / "datasets" / "anomgan_datasets",
)
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 500

FORBIDDEN_CALLS = {
    "print": "logging, or the renderer of the command line, talks to people",
    "breakpoint": "left over from debugging",
    "eval": "loading a model parses data only",
    "exec": "loading a model parses data only",
    "torch.load": "pickle underneath; weights are safetensors",
    "torch.save": "pickle underneath; weights are safetensors",
    "torch.manual_seed": "a Generator is passed down; the global state is the user's",
    "torch.cuda.manual_seed": "a Generator is passed down; the global state is the user's",
    "torch.cuda.manual_seed_all": "a Generator is passed down; the global state is the user's",
    "random.seed": "a Generator is passed down; the global state is the user's",
}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
NUMPY_RANDOM_ALLOWED = {"Generator", "SeedSequence", "default_rng", "PCG64", "RandomState"}
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|work|usr|opt|mnt|var|Users)/")


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in MODULES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def _where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 1)}"


def _dotted(node: ast.expr) -> str:
    """`np.random.seed` of an attribute chain; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def test_there_is_product_code() -> None:
    assert len(MODULES) > 40
    assert all(package.is_dir() for package in PACKAGES)


def test_no_forbidden_call() -> None:
    found = [
        f"{_where(path, node)} calls {name}: {FORBIDDEN_CALLS[name]}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (name := _dotted(node.func)) in FORBIDDEN_CALLS
    ]
    assert found == []


def test_no_assert_statement() -> None:
    found = [
        _where(path, node)
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_no_pickle_in_any_form() -> None:
    found = []
    for path, tree in _trees():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [_where(path, node) for n in names if n.split(".")[0] in FORBIDDEN_IMPORTS]
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                allowed = isinstance(node.value, ast.Constant) and node.value.value is False
                found += [] if allowed else [_where(path, node.value)]
    assert found == []


def test_no_legacy_numpy_random() -> None:
    found = [
        f"{_where(path, node)} uses {name}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (name := _dotted(node)).startswith(("np.random.", "numpy.random."))
        and name.split(".")[2] not in NUMPY_RANDOM_ALLOWED
    ]
    assert found == []


def test_no_bare_except_and_no_mutable_default() -> None:
    found = []
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{_where(path, node)} catches everything")
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                defaults = [*node.args.defaults, *node.args.kw_defaults]
                mutable = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp)
                if any(isinstance(default, mutable) for default in defaults):
                    found.append(f"{_where(path, node)} has a mutable default")
    assert found == []


def test_functions_are_short() -> None:
    """Lines of the whole function less its docstring."""
    found = []
    for path, tree in _trees():
        for node in ast.walk(tree):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            lines = (node.end_lineno or 0) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None:
                lines -= (first.end_lineno or 0) - first.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                found.append(f"{_where(path, node)} {node.name} has {lines} lines")
    assert found == []


def test_modules_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {str(p): n for p, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [str(path) for path in MODULES if path.name in drawers] == []


def test_nothing_is_left_to_do() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if mark.search(line)
    ]
    assert found == []


def _tracked_texts() -> list[Path]:
    """Text files that git tracks."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    endings = {".py", ".toml", ".md", ".txt", ".mjs", ".json", ".ipynb", ".cfg", ".yaml", ".yml"}
    names = {"Makefile", "run"}
    return [p for p in paths if (p.suffix in endings or p.name in names) and p.is_file()]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_no_absolute_path_in_any_file() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}"
        for path in _tracked_texts()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if ABSOLUTE_PATH.search(line) and not line.startswith("#!")
    ]
    assert found == []


def test_imports_point_one_way() -> None:
    """The contracts of pyproject.toml, checked by import-linter."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout
