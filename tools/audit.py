"""Ask a database of known vulnerabilities about the pinned versions, by pip-audit.

    make audit

It needs the network. Exits 0 where nothing is known, 1 where something is (each is named), and 2
where nothing could be asked: that is no clean bill.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

FOUND, NOT_ASKED = 1, 2


def main() -> None:
    """Audit the pins, with the pip-audit of this Python."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"))
    pins = parser.parse_args().constraints
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        asked = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        _say_not_asked((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    known = [
        f"{entry['name']} {entry['version']}: {flaw['id']}"
        f" (fixed in {', '.join(flaw.get('fix_versions') or ['no version yet'])})"
        for entry in asked
        for flaw in entry.get("vulns", ())
    ]
    skipped = [entry["name"] for entry in asked if "skip_reason" in entry]
    n_checked = len(asked) - len(skipped)
    if not n_checked:
        _say_not_asked(f"it knows none of the {len(asked)} versions")
    if skipped:
        known.append(f"not known to the database, hence not checked: {', '.join(skipped)}")
    print("\n".join([*known, f"{n_checked} of {len(asked)} versions checked"]))
    sys.exit(FOUND if any(entry.get("vulns") for entry in asked) else 0)


def _say_not_asked(why: str) -> NoReturn:
    print(f"nothing was checked: pip-audit could not ask its database ({why})", file=sys.stderr)
    print("the check needs the network: run `make audit` where there is one", file=sys.stderr)
    sys.exit(NOT_ASKED)


if __name__ == "__main__":
    main()
