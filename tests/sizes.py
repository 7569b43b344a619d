"""Lint: past 400 lines a file is asked what second thing it holds; past 600 it fails."""

from __future__ import annotations

import sys
from pathlib import Path

ASK, FAIL = 400, 600

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Print every file that is too long; 1 when one is past the limit."""
    failed = False
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        lines = len(path.read_text().splitlines())
        if lines > ASK:
            failed = failed or lines > FAIL
            verdict = "too long" if lines > FAIL else "what second thing is in here?"
            print(f"{path.relative_to(ROOT)}: {lines} lines: {verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
