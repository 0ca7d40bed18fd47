"""What the commands import, and what they do not."""

import subprocess
import sys

import pytest
from toy_model import toy_bundle, toy_table

_REPORT = """
import sys
from anomgan_cli.app import app
try:
    app({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
finally:
    print([m for m in {packages!r} if m in sys.modules], file=sys.stderr)
"""


def _imported(arguments, packages):
    code = _REPORT.format(arguments=arguments, packages=packages)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["fit", "--help"],
        ["score", "-h"],
        ["explain", "--help"],
        ["inspect", "--help"],
        ["demo", "--help"],
        ["evaluate", "--help"],
        ["benchmark", "accuracy", "--help"],
        ["benchmark", "speed", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments):
    packages = ("torch", "pandas", "sklearn", "onnxruntime", "numpy", "polars", "onnx", "scipy")
    assert _imported(arguments, (*packages, "matplotlib")) == "[]"


def test_score_imports_no_training_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_bundle("anomgan-model")
    toy_table(20, seed=2).write_csv("new.csv")
    packages = ("torch", "pandas", "sklearn", "onnx", "scipy", "pyarrow", "anomgan_datasets")
    assert _imported(["score", "new.csv", "--top-features", "2"], (*packages, "jinja2")) == "[]"
    for options in ((), ("--fdr", "0.1"), ("--no-drift",)):
        assert _imported(["score", "new.csv", "--report", "r.html", *options], packages) == "[]"
    for options in ((), ("--json",)):
        light = (*packages, "onnxruntime", "matplotlib")
        assert _imported(["inspect", *options], light) == "[]"
    assert _imported(["export"], packages) == "[]"


def test_explain_imports_no_training_package(machine_files, machine_model):
    packages = ("torch", "pandas", "sklearn", "onnx", "scipy", "pyarrow", "anomgan_datasets")
    arguments = ["explain", str(machine_files[1]), "-m", str(machine_model), "--row", "3"]
    assert _imported(arguments, packages) == "[]"
