"""The built wheel: what is inside, and that it fits and scores where only the wheel is."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ("anomgan", "cli/anomgan_cli", "datasets/anomgan_datasets")
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source archive, and the wheel made from it; both from a copy of the sources."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    for name in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
    for name in FILES:
        shutil.copy(REPOSITORY / name, source / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return archive, wheel


@pytest.fixture(scope="module")
def python(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment: the wheel, and the packages that are installed here.

    Nothing is downloaded: a .pth file shows the environment the packages of this one. Their own
    .pth files are not read that way, so that the editable install is out of reach.
    """
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*install, str(built[1])], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = environment.glob("lib/python*/site-packages")
    present = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "present.pth").write_text("".join(f"{path}\n" for path in sorted(present)))
    return python


def _run(python: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(python.parent / command[0]), *command[1:]],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_top_level_names(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"anomgan", "anomgan_cli", "anomgan_datasets"}


def test_every_source_file_is_inside_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        f"{Path(source).name}/{path.relative_to(REPOSITORY / source).as_posix()}"
        for source in SOURCES
        for path in (REPOSITORY / source).rglob("*")
        if path.suffix in {".py", ".html", ".css"} or path.name in {"py.typed", "cards.json"}
    }
    assert found == expected
    assert {f"{Path(source).name}/py.typed" for source in SOURCES} <= found
    assert "anomgan_datasets/cards.json" in found
    assert "anomgan/report/templates/report.html" in found


def test_metadata_of_the_wheel(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        (info,) = {n.split("/")[0] for n in wheel.namelist() if ".dist-info/" in n}
        metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
        entry_points = wheel.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert entry_points.split() == ["[console_scripts]", "anomgan", "=", "anomgan_cli.main:main"]
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    needed = {r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r}
    assert sum(r.startswith("onnxruntime") for r in needed) == 2
    assert all(">=" in r for r in needed)


def test_the_source_archive_holds_the_sources(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(FILES) <= names
    assert {f"{source}/py.typed" for source in SOURCES} <= names


def test_the_installed_wheel_fits_and_scores(
    python: Path, tumour_files: tuple[Path, Path], tmp_path: Path
) -> None:
    where = (
        "import anomgan, anomgan_cli, anomgan_datasets as d; print(anomgan.__file__, d.__file__)"
    )
    done = _run(python, "python", "-c", where, cwd=tmp_path)
    site = str(python.parents[1] / "lib")
    assert all(path.startswith(site) for path in done.stdout.split()), done.stdout + done.stderr
    shutil.copy(tumour_files[0], tmp_path / "normal.csv")
    shutil.copy(tumour_files[1], tmp_path / "new.csv")
    fit = ("fit", "normal.csv", "--label", "label", "--normal", "normal", "--max-time", "10s")
    done = _run(python, "anomgan", *fit, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (tmp_path / "anomgan-model" / "scorer.onnx").is_file()
    done = _run(python, "anomgan", "score", "new.csv", "--keep-columns", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "new.scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["row", "score", "p_value", "is_anomaly"]
    labels = np.array([row["label"] for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    flags = np.array([row["is_anomaly"] == "true" for row in rows])
    normal, malignant = labels == "normal", labels == "anomaly"
    assert np.median(scores[malignant]) > np.quantile(scores[normal], 0.9)
    assert flags[malignant].mean() > 0.1 > flags[normal].mean()
    judge = ("evaluate", "new.csv", "--label", "label", "--normal", "normal")
    done = _run(python, "anomgan", *judge, "--report", "report.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").read_text("utf-8").endswith("</html>")
