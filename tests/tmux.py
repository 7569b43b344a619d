"""A real terminal: a tmux of its own, with a window of a known size, and somebody at the keys."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.world import PATIENCE


class Tmux:
    """One window, in which a shell runs. What is asked for is waited for."""

    def __init__(
        self, folder: Path, env: Mapping[str, str], *, columns: int = 80, rows: int = 24
    ) -> None:
        self._socket = folder / "tmux.sock"
        self._env = {**env, "TERM": "xterm-256color", "LANG": "C.UTF-8", "PS1": "$ ", "SHELL": "sh"}
        self._folder = folder
        program = shutil.which("tmux")
        assert program is not None
        self._tmux = [program, "-u", "-S", str(self._socket), "-f", os.devnull]
        size = ["-x", str(columns), "-y", str(rows)]
        self._run("new-session", "-d", *size, "env -u ENV PS1='$ ' sh -i")
        self.until(lambda screen: "$" in screen, "the shell")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pid = int(self._run("display-message", "-p", "#{pid}"))
        self._run("kill-server")
        end = time.monotonic() + PATIENCE
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.01)

    # --- acting --------------------------------------------------------------------------------

    def type(self, line: str) -> None:
        """A line for the shell, with its end."""
        self._run("send-keys", "-l", line)
        self._run("send-keys", "Enter")

    def start(self, command: Sequence[str]) -> None:
        """Run a program in the foreground of the shell."""
        self.type(shlex.join(command))

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: `q`, `Enter`, `Up`, `C-c`."""
        for key in keys:
            self._run("send-keys", key)

    def paste(self, text: str) -> None:
        """As with the mouse: told to the program as pasted, where it asked for that."""
        self._run("set-buffer", "--", text)
        self._run("paste-buffer", "-p", "-r")

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    # --- looking -------------------------------------------------------------------------------

    def screen(self) -> str:
        """What is to be seen now, a line for each row, without the colours."""
        return self._run("capture-pane", "-p")

    def coloured(self) -> str:
        """The same with its colours."""
        return self._run("capture-pane", "-p", "-e")

    def until(self, what: Callable[[str], object], why: str) -> str:
        """The screen, once it is so; what was seen last is in the failure."""
        end = time.monotonic() + PATIENCE
        while not what(seen := self.screen()):
            assert time.monotonic() < end, f"never came: {why}\n{seen}"
            time.sleep(0.03)
        return seen

    def until_shown(self, *words: str) -> str:
        """The screen, once all of this is on it."""
        return self.until(lambda seen: all(word in seen for word in words), f"{words}")

    def until_gone(self, *words: str) -> str:
        """The screen, once nothing of this is on it."""
        return self.until(lambda seen: not any(word in seen for word in words), f"no {words}")

    def on_other_screen(self) -> bool:
        """Whether the alternate screen is shown."""
        return self._run("display-message", "-p", "#{alternate_on}").strip() == "1"

    def cursor_is_shown(self) -> bool:
        return self._run("display-message", "-p", "#{cursor_flag}").strip() == "1"

    def title(self) -> str:
        return self._run("display-message", "-p", "#{pane_title}").strip()

    def foreground(self) -> int:
        """The pid of what runs in the foreground."""
        shell = int(self._run("display-message", "-p", "#{pane_pid}"))
        fields = Path(f"/proc/{shell}/stat").read_text().rpartition(")")[2].split()
        return int(fields[5])

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words],
            env=self._env,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"tmux {words}: {done.stderr}"
        return done.stdout
