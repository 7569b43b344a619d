"""`docs/troubleshooting.md` is that of the table of causes."""

from __future__ import annotations

from tests import troubleshooting


def test_the_page_is_that_of_the_table() -> None:
    written = troubleshooting.PAGE.read_text()
    assert written == troubleshooting.page(), "run: python tests/troubleshooting.py --write"
