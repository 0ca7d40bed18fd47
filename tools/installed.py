"""Check what is installed against the pins, and every file against its distribution's own record.

    python tools/installed.py [--constraints constraints.txt]

Which wheel pip takes depends on the index and the machine, so their hashes are no part of this
repository (`make lock` writes those of yours). What holds everywhere is checked here: that versions
are the pinned ones, and that no file was altered, removed or cut short since it was installed. It
cannot tell whether the wheel was the right one. Exits 1, and names all that is wrong.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;#]+)")
_BOOTSTRAP = {"pip", "setuptools", "wheel"}  # of the environment's own maker


def pins(path: Path) -> dict[str, str]:
    """Return the version of each pinned distribution, by its canonical name."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    found = (_PIN.fullmatch(line) for line in lines if line)
    return {canonicalize_name(m[1]): m[2] for m in found if m}


def faults(distribution: metadata.Distribution, pinned: dict[str, str]) -> Iterator[str]:
    """Say what is wrong with one distribution."""
    name, version = canonicalize_name(distribution.metadata["Name"]), distribution.version
    # A local version, such as +cpu, is a build of the pinned one.
    if name in pinned and Version(version).public != Version(pinned[name]).public:
        yield f"{name} is {version}, and {pinned[name]} is pinned"
    if name not in pinned and name not in _BOOTSTRAP | {"anomgan"}:
        yield f"{name} {version} is installed, and not pinned"
    for file in distribution.files or ():
        if file.hash is None:
            continue  # RECORD itself, and what is compiled after the installation
        path = Path(str(distribution.locate_file(file)))
        if not path.is_file():
            yield f"{name}: {file} is gone"
        elif _digest(path, file.hash.mode) != file.hash.value.rstrip("="):
            yield f"{name}: {file} is not what was installed"


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, algorithm).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def main() -> None:
    """Check everything that is installed beside this Python."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"))
    pinned = pins(parser.parse_args().constraints)
    installed = list(metadata.distributions())
    found = [fault for distribution in installed for fault in faults(distribution, pinned)]
    n_files = sum(len(distribution.files or ()) for distribution in installed)
    print(
        "\n".join([*found, f"{len(installed)} distributions, {n_files} files, {len(found)} faults"])
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
