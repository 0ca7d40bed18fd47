"""Write the versions in constraints.txt with the hashes of your index's files.

    python tools/lock.py [-o constraints.lock]

The hashes are of the files that pip would take here and now: they differ from one index to another
(torch has builds of its own on most), and from one platform to another. So the file is made where
it is used, and is no part of the repository:

    make lock                      once, where the index is trusted
    make test LOCK=constraints.lock   from then on: pip refuses whatever has another hash
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_HEADER = "# Written by tools/lock.py: hashes of one index, for one platform and Python.\n"


def locked(report: dict[str, Any]) -> str:
    """Return the requirements of pip's report, each with its hashes."""
    lines = []
    for item in report["install"]:
        about, origin = item["metadata"], item["download_info"]
        if "archive_info" not in origin:
            continue  # anomgan itself, a folder
        hashes = origin["archive_info"].get("hashes") or {}
        if "sha256" not in hashes:
            raise SystemExit(f"the index states no sha256 of {about['name']}: nothing was written")
        lines.append(f"{about['name']}=={about['version']} --hash=sha256:{hashes['sha256']}")
    return _HEADER + "\n".join(sorted(lines, key=str.lower)) + "\n"


def main() -> None:
    """Ask pip what it would install, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("constraints.lock"))
    output = parser.parse_args().output
    torch = next(
        line
        for line in Path("constraints.txt").read_text().splitlines()
        if line.startswith("torch==")
    )
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--report", "-", "-c", "constraints.txt", torch, "-e", ".[dev]"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit("pip could not tell what it would install (see above): nothing was written")
    text = locked(json.loads(done.stdout))
    output.write_text(text, encoding="utf-8")
    print(f"wrote {output}: {text.count('--hash')} distributions")


if __name__ == "__main__":
    main()
