"""Write a bill of materials of anomgan and of all that it runs with, as CycloneDX JSON.

    python tools/sbom.py [-o dist/anomgan.cdx.json]

It is made from what is installed: the distribution `anomgan`, and those that its requirements lead
to, with version, licence, and the checksum of each one's own record of its files. The format is
CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json/).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "anomgan"


def distributions(root: str) -> tuple[dict[str, metadata.Distribution], dict[str, list[str]]]:
    """Return what is installed of `root` and its requirements, and who requires whom, by name.

    A requirement of an extra is followed where the extra is asked for. One that is not installed is
    none of this environment, but for a plain requirement, which has to be.
    """
    found: dict[str, metadata.Distribution] = {}
    requires: dict[str, list[str]] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(canonicalize_name(root), frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = metadata.distribution(name)
        needed = requires.setdefault(name, [])
        for requirement in _needed(found[name], extras):
            other = canonicalize_name(requirement.name)
            if other not in needed:
                needed.append(other)
            waiting.append((other, frozenset(requirement.extras)))
    return dict(sorted(found.items())), requires


def _needed(distribution: metadata.Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for line in distribution.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def component(name: str, distribution: metadata.Distribution) -> dict[str, Any]:
    """Return one component of the bill."""
    about = distribution.metadata
    content: dict[str, Any] = {
        "type": "library",
        "bom-ref": reference(name, distribution),
        "name": about["Name"],
        "version": distribution.version,
        "purl": reference(name, distribution),
    }
    if about["Summary"]:
        content["description"] = about["Summary"]
    licence = _licence(about)
    if licence:
        content["licenses"] = [licence]
    record = distribution.read_text("RECORD")
    if record is not None:
        checksum = hashlib.sha256(record.encode()).hexdigest()
        content["properties"] = [{"name": "anomgan:record-sha256", "value": checksum}]
    return content


def reference(name: str, distribution: metadata.Distribution) -> str:
    """Return the package URL, which names a component."""
    return f"pkg:pypi/{name}@{distribution.version.replace('+', '%2B')}"


def _licence(about: Any) -> dict[str, Any] | None:
    if about["License-Expression"]:
        return {"expression": about["License-Expression"]}
    named = [line for line in about.get_all("Classifier") or () if line.startswith("License :: ")]
    text = (about["License"] or "").strip().splitlines()
    if named:
        return {"license": {"name": named[0].rpartition(" :: ")[2]}}
    return {"license": {"name": text[0][:100]}} if text else None


def bill(root: str = ROOT) -> dict[str, Any]:
    """Return the bill of materials of an installed distribution."""
    found, requires = distributions(root)
    references = {name: reference(name, distribution) for name, distribution in found.items()}
    own = canonicalize_name(root)
    main = component(own, found[own]) | {"type": "application"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"timestamp": _now(), "component": main},
        "components": [component(name, found[name]) for name in found if name != own],
        "dependencies": [
            {"ref": references[name], "dependsOn": sorted(references[n] for n in requires[name])}
            for name in found
        ],
    }


def _now() -> str:
    """Return the time, or that of SOURCE_DATE_EPOCH, as builds that can be repeated state it."""
    stated = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(stated), UTC) if stated else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Write the bill to a file or to standard output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: stdout")
    output = parser.parse_args().output
    try:
        content = bill()
    except metadata.PackageNotFoundError as error:
        sys.exit(f"{error.name} is required and not installed: install anomgan first")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(f"wrote {output}: {len(content['components'])} components", file=sys.stderr)


if __name__ == "__main__":
    main()
