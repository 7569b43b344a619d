"""Where a log goes: as it is into a pipe or a file, unable to steer it onto a terminal."""

from __future__ import annotations

import codecs
import sys

from orchestrator.cli.render import inert


class LogOutput:
    """Standard output. Pieces may end anywhere, in the middle of a character as well."""

    def __init__(self) -> None:
        self._decoder = None
        if sys.stdout.isatty():
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, piece: bytes) -> None:
        """What was written by whatever program, at once."""
        if self._decoder is not None:
            # A lone return would write over what stands there.
            text = self._decoder.decode(piece).replace("\r", "")
            shown = "\n".join("\t".join(map(inert, row.split("\t"))) for row in text.split("\n"))
            piece = shown.encode(sys.stdout.encoding or "utf-8", "replace")
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
