"""Where everything comes from: the bill of materials, the pins, the hashes, the audit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]

# What CycloneDX 1.5 asks of the parts that are used (https://cyclonedx.org/docs/1.5/json/).
_LICENCE = {
    "oneOf": [
        {
            "type": "object",
            "required": ["license"],
            "properties": {
                "license": {
                    "type": "object",
                    "properties": {"name": {"type": "string", "minLength": 1}},
                    "required": ["name"],
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
        {
            "type": "object",
            "required": ["expression"],
            "properties": {"expression": {"type": "string", "minLength": 1}},
            "additionalProperties": False,
        },
    ]
}
_COMPONENT = {
    "type": "object",
    "required": ["type", "name", "version", "bom-ref", "purl"],
    "properties": {
        "type": {"enum": ["application", "library"]},
        "bom-ref": {"type": "string", "minLength": 1},
        "name": {"type": "string", "minLength": 1},
        "version": {"type": "string", "minLength": 1},
        "description": {"type": "string"},
        "purl": {"type": "string", "pattern": r"^pkg:pypi/[a-z0-9-]+@[^@+ ]+$"},
        "licenses": {"type": "array", "items": _LICENCE, "minItems": 1, "maxItems": 1},
        "properties": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "value"],
                "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
CYCLONEDX = {
    "type": "object",
    "required": ["bomFormat", "specVersion", "version", "metadata", "components", "dependencies"],
    "properties": {
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.5"},
        "serialNumber": {
            "type": "string",
            "pattern": "^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        },
        "version": {"type": "integer", "minimum": 1},
        "metadata": {
            "type": "object",
            "required": ["timestamp", "component"],
            "properties": {
                "timestamp": {
                    "type": "string",
                    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$",
                },
                "component": _COMPONENT,
            },
            "additionalProperties": False,
        },
        "components": {"type": "array", "items": _COMPONENT, "uniqueItems": True},
        "dependencies": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["ref"],
                "properties": {
                    "ref": {"type": "string"},
                    "dependsOn": {
                        "type": "array",
                        "items": {"type": "string"},
                        "uniqueItems": True,
                    },
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}


def _run(tool: str, *arguments: str, cwd: Path = REPOSITORY, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / tool), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# --- The bill of materials ------------------------------------------------------------------


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    done = _run("sbom.py", SOURCE_DATE_EPOCH="1700000000")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_bill_is_cyclonedx(bill: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(CYCLONEDX)
    assert not list(Draft202012Validator(CYCLONEDX).iter_errors(bill))
    assert bill["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    assert Draft202012Validator(CYCLONEDX).is_valid(bill | {"specVersion": "9"}) is False


def test_the_bill_names_all_that_anomgan_runs_with(bill: dict[str, Any]) -> None:
    main = bill["metadata"]["component"]
    assert (main["name"], main["version"]) == ("anomgan", metadata.version("anomgan"))
    versions = {canonicalize_name(c["name"]): c["version"] for c in bill["components"]}
    for line in metadata.requires("anomgan") or ():
        requirement = Requirement(line)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        name = canonicalize_name(requirement.name)
        assert (name in versions) or not needed, name
    assert {"torch", "numpy", "sympy", "markupsafe"} <= set(versions)  # some of them indirect
    assert not {"pytest", "mypy", "hypothesis"} & set(versions)  # for developers alone
    for name, version in versions.items():
        assert metadata.version(name) == version
    assert all("licenses" in component for component in bill["components"])


def test_every_reference_of_the_bill_leads_somewhere(bill: dict[str, Any]) -> None:
    components = [bill["metadata"]["component"], *bill["components"]]
    references = [component["bom-ref"] for component in components]
    assert len(set(references)) == len(references)
    assert sorted(entry["ref"] for entry in bill["dependencies"]) == sorted(references)
    reached = {other for entry in bill["dependencies"] for other in entry["dependsOn"]}
    assert reached | {references[0]} == set(references)


# --- What is installed ----------------------------------------------------------------------


def _installed(folder: Path, record_of: bytes) -> Path:
    """Make a distribution of one file, whose record is of some content."""
    import base64
    import hashlib

    digest = base64.urlsafe_b64encode(hashlib.sha256(record_of).digest()).rstrip(b"=").decode()
    about = folder / "thing-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "thing.py").write_bytes(b"x = 1\n")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    (about / "RECORD").write_text(f"thing.py,sha256={digest},6\nthing-1.0.dist-info/RECORD,,\n")
    return folder


@pytest.mark.parametrize(
    ("content", "pin", "message"),
    [
        (b"x = 1\n", "thing==1.0", None),
        (b"x = 2\n", "thing==1.0", "thing: thing.py is not what was installed"),
        (b"x = 1\n", "thing==2.0", "thing is 1.0, and 2.0 is pinned"),
        (b"x = 1\n", "other==1.0", "thing 1.0 is installed, and not pinned"),
    ],
)
def test_an_altered_file_or_version_is_named(
    tmp_path: Path, content: bytes, pin: str, message: str | None
) -> None:
    site = _installed(tmp_path / "site", content)
    (tmp_path / "pins.txt").write_text(f"{pin}\n")
    code = (
        "import sys; sys.path[:0] = [sys.argv.pop(1)]; import runpy;"
        "from importlib import metadata; real = metadata.distributions;"
        "metadata.distributions = lambda: real(path=[sys.path[0]]);"
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, str(site), str(REPOSITORY / "tools" / "installed.py")),
            *("--constraints", str(tmp_path / "pins.txt")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if message is None else 1), done.stderr
    assert (message or "1 distributions, 2 files, 0 faults") in done.stdout


def test_everything_is_pinned() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^+\s]*", line) for line in pins)
    pinned = {canonicalize_name(line.split("==")[0]) for line in pins}
    for line in metadata.requires("anomgan") or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "dev"}):
            assert canonicalize_name(requirement.name) in pinned, line


# --- Hashes and audit -----------------------------------------------------------------------


def _tool(name: str) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_lock_holds_the_hash_of_every_file() -> None:
    thing = {
        "metadata": {"name": "thing", "version": "1.0"},
        "download_info": {"url": "x", "archive_info": {"hashes": {"sha256": "ab" * 32}}},
    }
    own = {
        "metadata": {"name": "anomgan", "version": "0"},
        "download_info": {"url": "file:///x", "dir_info": {"editable": True}},
    }
    text = _tool("lock").locked({"install": [own, thing]})
    assert text.splitlines()[1:] == [f"thing==1.0 --hash=sha256:{'ab' * 32}"]
    del thing["download_info"]["archive_info"]["hashes"]  # type: ignore[index]
    with pytest.raises(SystemExit, match="states no sha256 of thing"):
        _tool("lock").locked({"install": [thing]})


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What make reads of a checkout, set up already, without a lock."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    (tmp_path / "constraints.lock").write_text("thing==1.0 --hash=sha256:00\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".set-up").touch()
    return tmp_path


def _make(folder: Path, *arguments: str) -> str:
    # What an outer make hands down (options, LOCK=...) is not for this one.
    own = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "LOCK", "VENV")}
    done = subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=own,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
def test_a_lock_is_installed_although_the_set_up_is_done(checkout: Path) -> None:
    for target in ("test", "check", "demo"):
        assert "pip install" not in _make(checkout, "-n", target)
        told = _make(checkout, "-n", target, "LOCK=constraints.lock")
        assert '--require-hashes -r "constraints.lock"' in told
        assert "venv --clear .venv" in told


_PYTHON = """#!/bin/sh
# Stands for Python: makes environments of itself, and writes down what it is asked for.
echo "$*" >> log
case "$*" in "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python";; esac
"""


@needs_make
def test_a_set_up_with_a_lock_starts_anew_and_only_when_it_must(checkout: Path) -> None:
    python = checkout / "python"
    python.write_text(_PYTHON)
    python.chmod(0o755)
    shutil.rmtree(checkout / ".venv")
    log = checkout / "log"

    def asked(lock: str, stamp: str = ".venv/.set-up-locked") -> list[str]:
        log.write_text("")
        _make(checkout, f"PYTHON={python}", stamp, f"LOCK={lock}")
        words = [line.split() for line in log.read_text().splitlines()]
        return [line[1] for line in words if line[0] == "-m"] + [
            line[-1] for line in words if "--require-hashes" in line
        ]

    assert asked("", ".venv/.set-up") == ["venv", "pip", "pip"]
    assert asked("", ".venv/.set-up") == []
    assert asked("constraints.lock") == ["venv", "pip", "pip", "constraints.lock"]
    assert asked("constraints.lock") == []
    (checkout / "constraints.lock").write_text("thing==1.0 --hash=sha256:11\n")
    later = time.time() + 5
    os.utime(checkout / "constraints.lock", (later, later))
    assert asked("constraints.lock") == ["venv", "pip", "pip", "constraints.lock"]
    os.utime(checkout / "constraints.lock", (1, 1))
    # Without a lock the environment is taken as it is, and is no locked one any more.
    assert asked("", ".venv/.set-up") == ["pip", "pip"]
    assert asked("constraints.lock") == ["venv", "pip", "pip", "constraints.lock"]


@needs_make
def test_another_lock_than_that_of_the_set_up_is_told(checkout: Path) -> None:
    (checkout / ".venv" / ".set-up-locked").write_text("thing==2.0 --hash=sha256:00\n")
    with pytest.raises(AssertionError, match="was set up with another lock than "):
        _make(checkout, "check", "LOCK=constraints.lock")


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "1 of 1 versions"),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", '
            '"fix_versions": ["2"]}]}]}',
            1,
            "a 1: CVE-1 (fixed in 2)",
        ),
        ('{"dependencies": [{"name": "a", "skip_reason": "unknown"}]}', 2, "nothing was checked"),
        ("", 2, "could not ask its database (no route to host)"),
    ],
)
def test_an_audit_that_could_not_ask_is_no_clean_bill(
    tmp_path: Path, answer: str, code: int, message: str
) -> None:
    package = tmp_path / "pip_audit"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        f"import sys; print({answer!r}); sys.exit('no route to host')"
    )
    done = _run("audit.py", PYTHONPATH=str(tmp_path))
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
