"""Model directories as an attacker would write them: any content, with checksums that fit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golden_models import GOLDEN

from anomgan.bundle import FORMAT_VERSION

REAL = GOLDEN / f"format-{FORMAT_VERSION}"
"""Real models, small ones."""

NEW = REAL / "new.csv"
"""Rows that they score."""


def copied(target: Path, name: str = "flagship") -> Path:
    """Copy a real model, and return where it is."""
    shutil.copytree(REAL / name, target)
    return target


def signed(model: Path, name: str, content: bytes) -> Path:
    """Put a content into a model, and its checksum into the manifest."""
    (model / name).write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return edited(model, lambda manifest: manifest["files"].update({name: record}))


def edited(model: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the manifest of a model."""
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (model / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return model
