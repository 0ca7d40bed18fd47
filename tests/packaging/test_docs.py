"""The documents: their Python runs, their links lead somewhere, their reference is true."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_reference import cli_reference
from detector_reference import detector_reference
from typer.testing import CliRunner

from anomgan_cli.app import app

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")], key=lambda path: path.name
)


def _blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def _run(page: str) -> None:
    """Run the examples of a page, one after the other, at toy size and silently."""
    namespace: dict[str, object] = {"print": lambda *_: None}
    for block in _blocks(page, "python"):
        source = block.replace("GANDetector(", "GANDetector(n_steps=40, ")
        exec(compile(source, page, "exec"), namespace)


@pytest.fixture
def tumours(
    tumour_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with normal.csv and new.csv, numbers only, and a model of them."""
    import pandas as pd

    from anomgan import GANDetector

    for source, name in zip(tumour_files, ("normal.csv", "new.csv"), strict=True):
        pd.read_csv(source).drop(columns="label").to_csv(tmp_path / name, index=False)
    detector = GANDetector(n_steps=40, random_state=0)
    detector.fit(pd.read_csv(tmp_path / "normal.csv")).save(tmp_path / "anomgan-model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def machine(
    machine_files: tuple[Path, Path],
    machine_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The same with columns of every kind."""
    for source, name in zip(machine_files, ("normal.csv", "new.csv"), strict=True):
        shutil.copy(source, tmp_path / name)
    shutil.copytree(machine_model, tmp_path / "anomgan-model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs(tumours: Path) -> None:
    assert len(_blocks("README.md", "python")) == 3
    _run("README.md")
    assert (tumours / "my-model" / "scorer.onnx").is_file()


def test_the_scorer_is_embedded_in_ten_lines() -> None:
    block = _blocks("README.md", "python")[-1]
    assert "anomgan import" not in block
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


def test_the_python_of_the_user_guide_runs(machine: Path) -> None:
    _run("docs/user-guide.md")
    assert (machine / "my-model" / "scorer.onnx").is_file()


def test_the_python_of_the_model_format_gives_the_scores_of_the_scorer(machine: Path) -> None:
    import numpy as np
    import pandas as pd

    from anomgan import Scorer

    (block,) = _blocks("docs/model-format.md", "python")
    assert "anomgan import" not in block
    namespace: dict[str, object] = {}
    exec(compile(block, "docs/model-format.md", "exec"), namespace)
    expected = Scorer.open("anomgan-model", providers="cpu").score(pd.read_csv("new.csv"))
    np.testing.assert_array_equal(namespace["score"], expected.score)
    np.testing.assert_array_equal(namespace["contributions"], expected.contributions)


def test_the_command_line_reference_is_up_to_date() -> None:
    written = (REPOSITORY / "docs" / "cli-reference.md").read_text(encoding="utf-8")
    assert written == cli_reference(), "run python tests/support/cli_reference.py"


def test_detector_reference_is_what_the_detectors_say() -> None:
    written = (REPOSITORY / "docs" / "detectors.md").read_text(encoding="utf-8")
    assert written == detector_reference(), "run python tests/support/detector_reference.py"


@pytest.mark.parametrize("page", ["README.md", "docs/user-guide.md"])
def test_every_command_and_option_in_the_page_exists(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    known = set(re.findall(r"`(-{1,2}[a-z][a-z-]*)`", cli_reference()))
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert options
    assert options <= known
    commands = set(re.findall(r"`anomgan ([a-z]+)", text))
    for block in _blocks(page, "sh"):
        commands |= set(re.findall(r"\banomgan ([a-z]+)", block))
    assert commands
    for command in commands:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command


def test_the_readme_names_every_command() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"^## anomgan ([a-z]+)$", cli_reference(), flags=re.MULTILINE):
        assert f"`anomgan {name}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, target


def test_the_page_on_accuracy_says_what_its_results_say() -> None:
    script = REPOSITORY / "tests" / "acceptance" / "accuracy.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_on_performance_says_what_its_results_say() -> None:
    script = REPOSITORY / "tests" / "acceptance" / "performance.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
