"""The table of metrics in `docs/metrics.md`, written from the code: `python -m tests.metric_page`
compares, `--write` writes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.api.metric_table import TABLE

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

BEGIN = "<!-- from orchestrator/api/metric_table.py: python -m tests.metric_page --write -->\n"
END = "<!-- until here -->\n"


def table() -> Iterator[str]:
    """Line by line."""
    yield "| metric | kind | labels | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, meaning in TABLE.items():
        labels = ", ".join(f"`{label}`" for label in meaning.labels)
        there = f"; {meaning.optional}" if meaning.optional else ""
        yield f"| `{name}` | {meaning.kind} | {labels} | {meaning.says}{there} |"


def as_it_should_be(page: str) -> str:
    """The page with the table of now in its place."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} has no place for the table")
    lines = "".join(f"{line}\n" for line in table())
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def main() -> int:
    have = PAGE.read_text()
    want = as_it_should_be(have)
    if have != want and "--write" in sys.argv:
        PAGE.write_text(want)
        return 0
    return int(have != want)


if __name__ == "__main__":
    sys.exit(main())
