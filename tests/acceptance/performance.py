"""Write docs/performance.md from the results in docs/performance/, and draw its plots.

    python tests/acceptance/performance.py            writes the page and its plots
    python tests/acceptance/performance.py --check    fails if the page does not say what they say

The results are those of the command that the page names. Without results there is no page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anomgan.evaluation.speed import read_facts, read_figures
from anomgan.report.speed import page, write_page

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = Path("docs", "performance", "speed.csv")
COMMAND = f"anomgan benchmark speed -o {RESULTS.as_posix()} --report docs/performance.md"


def main(docs: Path = DOCS) -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    target, results = docs / "performance.md", docs / "performance" / RESULTS.name
    if not results.exists():
        if target.exists() or not check:
            sys.exit(f"there are no results in {results}: run {COMMAND}")
        return
    figures, facts = read_figures(results), read_facts(results.with_suffix(".json"))
    if not check:
        write_page(str(target), figures, facts, command=COMMAND)
    elif not target.exists() or target.read_text(encoding="utf-8") != page(
        figures, facts, command=COMMAND, folder=target.stem
    ):
        sys.exit(f"{target} does not say what {results} says: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
