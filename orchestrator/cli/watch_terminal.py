"""The whole screen, taken over and given back: whatever ends us, a person's terminal is as before.

Signals become something to act on between two keys. Only a process that is killed with SIGKILL
leaves the screen as it is, for nobody can do anything about that.
"""

from __future__ import annotations

import collections
import errno
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from orchestrator.cli.watch_frame import END_AT_ONCE, changes, fitted, in_ascii, without_colour
from orchestrator.cli.watch_keys import Key, Keys, Offered

_OTHER_SCREEN, _THIS_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
# No cursor; no line goes on in the next one; what is pasted is told from what is typed. Then the
# terminal is asked whether it can show a frame at once.
_TAKE = "\x1b[?25l\x1b[?7l\x1b[?2004h\x1b[?2026$p"
_GIVE = f"\x1b[m{END_AT_ONCE}\x1b[?2004l\x1b[?7h\x1b[?25h"
_AT_ONCE = 2026

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_ALL = (*_ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)

_ESCAPES_WITHIN = 0.05
"""Seconds after an escape in which what belongs to it comes, also through ssh."""


class Terminal:
    """Between `with` and its end: keys come one by one, frames are drawn over each other."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._out = sys.stdout.fileno()
        self._colour = not environ.get("NO_COLOR")
        self._ascii = not speaks_unicode(original_environment(environ))
        self._keys = Keys()
        self._before: Any = None
        self._shown: list[str] = []
        self._at_once = False
        self._signals: collections.deque[int] = collections.deque()
        self._handlers: dict[int, Any] = {}
        self._ended_by: int | None = None

    @property
    def ended(self) -> bool:
        """Whether a signal, or a terminal that is gone, ends this."""
        return self._ended_by is not None

    def __enter__(self) -> Self:
        self._in, self._owns_in = _input()
        self._wakes, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_wake = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._note) for number in _ALL}
        self._take(_OTHER_SCREEN)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._give()
        signal.set_wakeup_fd(self._old_wake)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for descriptor in (self._wakes, self._wake, *([self._in] if self._owns_in else [])):
            os.close(descriptor)

    def die_as_told(self) -> None:
        """After the end: what a signal would have done to us, had we not tidied up first."""
        if self._ended_by == signal.SIGINT:
            raise KeyboardInterrupt
        if self._ended_by is not None:
            signal.signal(self._ended_by, signal.SIG_DFL)
            signal.pthread_kill(threading.get_ident(), self._ended_by)

    def size(self) -> tuple[int, int]:
        """Columns and rows; at least enough to say something."""
        try:
            packed = fcntl.ioctl(self._out, termios.TIOCGWINSZ, b"\0" * 8)
            rows, columns, _, _ = struct.unpack("HHHH", packed)
        except OSError:
            rows, columns = 0, 0
        return max(columns or 80, 10), max(rows or 24, 3)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these, by writing what differs from what is shown."""
        columns, rows = self.size()
        frame = [self._spoken(line) for line in fitted(lines, columns, rows)]
        said = changes(self._shown, frame, columns, at_once=self._at_once)
        self._shown = frame
        self._write(said)

    def wait(self, others: Sequence[int], timeout: float) -> list[Key]:
        """Until a key, a signal, something on `others`, or the time is over; the keys."""
        watched = [self._wakes, *others, *([self._in] if self._in >= 0 else [])]
        ready = select.select(watched, [], [], timeout)[0]
        if self._wakes in ready:
            os.read(self._wakes, 4096)
        while self._signals:
            self._heed(self._signals.popleft())
        keys = self._read() if self._in in ready else []
        while self._keys.open and not self.ended:
            if not select.select([self._in], [], [], _ESCAPES_WITHIN)[0]:
                keys += self._keys.flush()
                break
            keys += self._read()
        for key in keys:
            if isinstance(key, Offered) and key.mode == _AT_ONCE:
                self._at_once = key.known
        return keys

    def _read(self) -> list[Key]:
        try:
            data = os.read(self._in, 4096)
        except OSError as error:
            if error.errno == errno.EINTR:
                return []
            data = b""
        if not data:
            # Nobody is there any more.
            self._ended_by = self._ended_by or signal.SIGHUP
        return self._keys.feed(data)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _heed(self, number: int) -> None:
        if number in _ENDING:
            self._ended_by = self._ended_by or number
        elif number == signal.SIGTSTP:
            self._stand_still()
        elif number == signal.SIGCONT:
            # We were stopped without a word, and somebody else had the terminal.
            self._take("")
        else:
            # Nobody knows what a terminal makes of its lines when its size changes.
            self._shown = []

    def _stand_still(self) -> None:
        self._give()
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # To this thread, or it might run on for a moment while another is stopped.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)
        signal.signal(signal.SIGCONT, self._note)
        self._take(_OTHER_SCREEN)

    def _take(self, screen: str) -> None:
        if self._in >= 0:
            self._before = self._before or termios.tcgetattr(self._in)
            mode = [*self._before]
            mode[0] = mode[0] & ~termios.IXON
            mode[3] = mode[3] & ~(termios.ECHO | termios.ICANON)
            mode[6] = [*mode[6]]
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._in, termios.TCSADRAIN, mode)
        self._shown = []
        self._write(screen + _TAKE)

    def _give(self) -> None:
        self._write(_GIVE + _THIS_SCREEN)
        if self._before is not None:
            # What the terminal still answers is not for the shell.
            try:
                termios.tcsetattr(self._in, termios.TCSAFLUSH, self._before)
            except termios.error:
                # It is gone, and so is whoever could see it.
                return
            self._before = None

    def _spoken(self, line: str) -> str:
        line = line if self._colour else without_colour(line)
        return in_ascii(line) if self._ascii else line

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:
            self._ended_by = self._ended_by or signal.SIGHUP


def _input() -> tuple[int, bool]:
    """Where keys come from, and whether we opened it; -1 where there is nobody to press any."""
    if sys.stdin.isatty():
        return sys.stdin.fileno(), False
    try:
        return os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY), True
    except OSError:
        return -1, False


def original_environment(environ: Mapping[str, str]) -> Mapping[str, str]:
    """As we were given it: Python sets LC_CTYPE to UTF-8 where no locale is set, whatever the
    terminal speaks."""
    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = [pair.partition(b"=") for pair in file.read().split(b"\0") if pair]
    except OSError:
        return environ
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def speaks_unicode(environ: Mapping[str, str]) -> bool:
    """What the locale says; without one, nothing but ASCII is sure to be shown."""
    chosen = (environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    locale = next((one for one in chosen if one), "")
    return "utf8" in locale.lower().replace("-", "")
