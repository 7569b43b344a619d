"""Makes `docs/troubleshooting.md` from the table of causes.

python tests/troubleshooting.py            prints it
python tests/troubleshooting.py --write    writes it
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from orchestrator.core.cause_table import KINDS, RULES, SENT, SIGNALS  # noqa: E402
from tests.markdown import code, table  # noqa: E402 - the script may be run from anywhere

PAGE = ROOT / "docs" / "troubleshooting.md"

HEAD = """\
# When something fails

This page is made from the code by `python tests/troubleshooting.py --write`, and a test fails when
the two differ.

`status` shows for each instance a `reason`, one word of the first table, and a `message` with the
engine's own error line and, in parentheses, what to do. `orchestrate events NAME` tells how it came
to that, `orchestrate logs NAME` (with `--previous` for the run before) all that the engine said.

What a retry cannot mend is not tried again blindly: the instance is `failed` at once, and is looked
after. Twice a second it is asked whether what it failed for is otherwise: its model files and its
program, and the files that its error line names (there, changed and come to rest, allowed), the
memory that is available, its port. As soon as it is, there is an event `mended`, and a new start;
earlier failures do not count then. Only where it is memory they do: how much is enough is guessed,
so there is one try after the other, with the pauses of `restart:`. All this outlives the daemon,
and none of it is for an instance with `restart: {policy: never}`. An edit of the profile is a new
start as well, and so is each `start`, `restart` and `apply`. Everything else is tried again by the
rules of `restart:`.
"""

WORDS = """\
## What engines say

The first row of which an engine has written a line is believed. Of an instance that was ready
before only what is about memory counts, among its last words: the rest is about requests.
"""

SIGNAL = """\
## Signals

A process that a signal has ended is `crashed`, and the message has the signal's name. Killed for
want of memory is told from killed by hand by the kernel's own record (`/dev/kmsg`), and by the
counters of its control group (`memory.events`, or `memory.oom_control` of version 1); where none of
these can be read, both look alike.
"""


def page() -> str:
    """The whole page."""
    causes = [(code(reason), kind.meaning, kind.hint, kind.again) for reason, kind in KINDS.items()]
    words = [(code(rule.reason), _lines(rule.says)) for rule in RULES]
    signals = [(code(name), hint) for name, hint in {**SENT, **SIGNALS}.items()]
    parts = [
        HEAD,
        "## Causes\n",
        table(("reason", "means", "what to do", "tried again when"), causes),
        WORDS,
        table(("reason", "lines that hold (regular expressions)"), words),
        SIGNAL,
        table(("signal", "tells"), signals),
    ]
    return "\n".join(parts)


def _lines(says: str) -> str:
    """Alternatives one by one, as far as they are not within parentheses."""
    found, depth, start = [], 0, 0
    for at, letter in enumerate(says):
        depth += (letter == "(") - (letter == ")") if says[at - 1 : at] != "\\" else 0
        if letter == "|" and not depth:
            found.append(says[start:at])
            start = at + 1
    words = [one.strip() for one in [*found, says[start:]]]
    return ", ".join(f"``{one}``" if "`" in one else code(one) for one in words)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
        print(f"wrote {PAGE.relative_to(ROOT)}")
    else:
        print(page(), end="")
