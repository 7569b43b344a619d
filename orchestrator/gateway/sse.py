"""Server-sent events out of a stream of bytes that may be cut anywhere. Pure."""

from __future__ import annotations


class Events:
    """Fed with pieces as they come; bytes are looked at, never half characters."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that is whole by now."""
        first, *more = piece.split(b"\n")
        self._line += first
        found: list[bytes] = []
        for line in more:
            self._take(bytes(self._line), found)
            self._line = bytearray(line)
        return found

    def _take(self, line: bytes, found: list[bytes]) -> None:
        line = line.removesuffix(b"\r")
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            found.append(b"\n".join(self._data))
            self._data = []
