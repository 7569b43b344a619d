"""Flags of a llama-server as others write them, brought to what a profile says for each.

Three spellings come in: words of a command line, variables, and keys of a preset. `Settings` takes
them one after the other; what comes later wins, as it does in llama-server. The table of flags is
that of the llama-server found here, if there is one; without it they are kept as they are written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct, field

from orchestrator.core.engine import FlagValue
from orchestrator.core.import_draft import (
    PORT,
    Notes,
    env_reference,
    is_reference,
    located,
    typed,
)
from orchestrator.core.problem import Path
from orchestrator.core.secret import is_secret_name

TRUTHY = frozenset({"on", "enabled", "true", "1"})
FALSY = frozenset({"off", "disabled", "false", "0"})
"""Words that llama-server takes for yes and no."""

SPELLINGS: Mapping[str, str] = {
    **dict.fromkeys(("-m", "--model", "LLAMA_ARG_MODEL"), "model"),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo", "--hf", "LLAMA_ARG_HF_REPO"), "hf-repo"),
    **dict.fromkeys(("-hff", "--hf-file", "LLAMA_ARG_HF_FILE"), "hf-file"),
    **dict.fromkeys(("-mu", "--model-url", "LLAMA_ARG_MODEL_URL"), "model-url"),
    **dict.fromkeys(("-dr", "--docker-repo", "LLAMA_ARG_DOCKER_REPO"), "docker-repo"),
    **dict.fromkeys(("-mm", "--mmproj", "LLAMA_ARG_MMPROJ"), "mmproj"),
    **dict.fromkeys(("--host", "LLAMA_ARG_HOST"), "host"),
    **dict.fromkeys(("--port", "LLAMA_ARG_PORT"), "port"),
    **dict.fromkeys(("--reuse-port", "LLAMA_ARG_REUSE_PORT"), "reuse-port"),
    **dict.fromkeys(("--api-key", "LLAMA_API_KEY"), "api-key"),
    **dict.fromkeys(("-a", "--alias", "LLAMA_ARG_ALIAS"), "alias"),
    **dict.fromkeys(("-hft", "--hf-token"), "hf-token"),
}
"""What is a key of its own in a profile, or has a meaning here: known whatever the table says."""

NO_PORT = "it holds ${PORT}: the port is chosen when it starts"
_PLACES = ("model", "hf-repo", "hf-file", "mmproj", "host", "port")
_ELSEWHERE = {
    "model-url": "a profile names a model on this machine: download it, and name the file",
    "docker-repo": "a profile names a model on this machine: pull it, and name the file",
    "reuse-port": "two servers on one port would take requests from each other",
}


class Row(Protocol):
    """What is to be known of one flag."""

    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def negative(self) -> Sequence[str]: ...
    @property
    def choices(self) -> Sequence[str]: ...
    @property
    def comma(self) -> bool: ...
    @property
    def path(self) -> str: ...
    @property
    def removed(self) -> str: ...
    @property
    def exits(self) -> bool: ...
    @property
    def downloads(self) -> bool: ...


class Table(Struct, frozen=True):
    """The flags of a llama-server, by each spelling and by variable."""

    by_spelling: Mapping[str, Row]
    by_env: Mapping[str, Row]
    program: str = "the llama-server found here"
    """What messages call whose flags they are."""


class Secrets(Struct):
    """Which variables stand for secrets that are not written out: one for each value."""

    _values: dict[str, str] = field(default_factory=dict[str, str])

    def reference(self, wanted: str, value: str, instance: str) -> str:
        """The name of a variable for `value`: `wanted`, unless another value has that one."""
        own = "".join(one if one.isalnum() and one.isascii() else "_" for one in instance)
        for name in (wanted, f"{own}_{wanted}".upper()):
            safe = f"_{name}" if name[:1].isdigit() else name
            if self._values.setdefault(safe, value) == value:
                return safe
        return safe


class Settings(Struct):
    """The settings of one server while they are read; `part` and `key` say where they stand in the
    source.

    `ours` is false where another program than that of the table is to run. `at` is the place in
    the profile, `line` that in the source.
    """

    table: Table | None
    notes: Notes
    secrets: Secrets
    folder: str
    at: Path
    part: str
    key: str = ""
    line: int = 0
    ours: bool = True
    places: dict[str, str] = field(default_factory=dict[str, str])
    """What has a key of its own: model, hf-repo, hf-file, mmproj, host, port."""
    flags: dict[str, FlagValue] = field(default_factory=dict[str, Any])
    args: list[str] = field(default_factory=list[str])
    relative: bool = False
    """Whether a path was relative, and so taken from `folder`."""

    # --- a command line ------------------------------------------------------------------------

    def words(self, words: Sequence[str]) -> None:
        """Take the words that follow a program."""
        rest = deque(words)
        while rest:
            word = rest.popleft()
            if not word.startswith("-") or len(word) < 2:
                self.lost("a word that belongs to no flag was left out")
                continue
            self._word(word, rest)

    def _word(self, word: str, rest: deque[str]) -> None:
        spelling, row = self._row(word)
        key = SPELLINGS.get(spelling, row.key if row else "")
        if not key:
            self._unknown(word, self._following(rest))
            return
        kind = row.kind if row else "bare" if key == "reuse-port" else "value"
        if kind in ("bare", "pair"):
            self._set(key, row, not (row and spelling in row.negative), word)
            return
        if kind == "two":
            self._set(key, row, [typed(rest.popleft()) for _ in range(min(2, len(rest)))], word)
            return
        if rest and not self._is_flag(rest[0]):
            self._set(key, row, rest.popleft(), word)
        elif row and "on" in row.choices:
            self._set(key, row, "on", word)
            self.changed("it stands there without a value: `on` is meant", ("flags", key), word)
        else:
            self.lost("it needs a value, and has none", word)

    def _row(self, word: str) -> tuple[str, Row | None]:
        """The spelling that a word is, and its row; llama-server takes `_` for `-`."""
        if self.table is not None:
            for spelling in (word, word.replace("_", "-"), word.casefold()):
                if spelling in self.table.by_spelling:
                    return spelling, self.table.by_spelling[spelling]
        plain = f"--{word[2:].replace('_', '-').casefold()}" if word[:2] == "--" else word
        return plain, None

    def _is_flag(self, word: str) -> bool:
        return word.startswith("--") or self._row(word)[0] in SPELLINGS or bool(self._row(word)[1])

    def _following(self, rest: deque[str]) -> list[str]:
        """The values of a flag that nobody knows: all up to the next flag."""
        taken: list[str] = []
        while rest and not (rest[0].startswith("-") and typed(rest[0]) == rest[0]):
            taken.append(rest.popleft())
        return taken

    # --- variables, and keys of presets --------------------------------------------------------

    def variable(self, name: str, value: str) -> bool:
        """Take a variable that sets a flag, unless a word has set it; False if it is none."""
        row = self.table.by_env.get(name) if self.table is not None else None
        key = SPELLINGS.get(name, row.key if row else "")
        if not key:
            return False
        if key not in self.flags and key not in self.places:
            self._spoken(key, row, False, value, name)
        return True

    def preset(self, key: str, value: str) -> None:
        """Take a line of a preset: a long or short flag without dashes, or a variable."""
        named = self.table.by_env.get(key) if self.table is not None else None
        if named is not None or key in SPELLINGS:
            self._spoken(SPELLINGS.get(key, named.key if named else ""), named, False, value, key)
            return
        for word in (f"--{key}", f"-{key}"):
            spelling, row = self._row(word)
            known = SPELLINGS.get(spelling, row.key if row else "")
            if known:
                self._spoken(known, row, bool(row and spelling in row.negative), value, key)
                return
        if key.isupper():
            self.lost("no flag of llama-server goes by this variable")
        else:
            self._unknown(f"--{key}", [] if value.casefold() in TRUTHY else [value])

    def _spoken(self, key: str, row: Row | None, negated: bool, value: str, word: str) -> None:
        """A value that is always text: of a flag without one it says whether it is on."""
        if row is None or row.kind not in ("bare", "pair"):
            if row is not None and row.kind == "two":
                self.lost("it takes two values, which cannot be said there", word)
                return
            # Of a line that is given twice, the last one counts.
            self.flags.pop(key, None)
            self._set(key, row, value, word)
            return
        on = value not in TRUTHY if negated else value not in FALSY
        if value not in TRUTHY | FALSY:
            said = "true" if on else "false"
            self.changed(f"it takes no value: this counts as {said}", ("flags", key), word)
        self._set(key, row, on, word)

    # --- all of them ---------------------------------------------------------------------------

    def _set(self, key: str, row: Row | None, value: FlagValue, word: str) -> None:
        """Take one setting under its name in a profile."""
        if isinstance(value, str) and PORT in value and key != "port":
            self.lost(NO_PORT, word)
            return
        if key in _PLACES:
            self.places[key] = (
                self._located(str(value)) if key in ("model", "mmproj") else str(value)
            )
            return
        refused = _ELSEWHERE.get(key) or _refused(row)
        if refused:
            self.lost(refused, word)
            return
        if is_secret_name(key):
            self._secret(key, str(value), word)
            return
        if row is not None and isinstance(value, str):
            value = self._valued(key, row, value)
        self.flags[key] = typed(value) if isinstance(value, str) else value

    def _valued(self, key: str, row: Row, value: str) -> FlagValue:
        if row.choices and value not in row.choices and value in TRUTHY | FALSY:
            return value in TRUTHY
        if row.path:
            words = value.split(",") if row.comma else [value]
            value = ",".join(self._located(word) for word in words)
        before = self.flags.get(key)
        if row.comma and isinstance(before, str | int | float):
            return [*str(before).split(","), *value.split(",")]
        if row.comma and isinstance(before, list):
            before.extend(value.split(","))
            return before
        return value

    def _secret(self, key: str, value: str, word: str) -> None:
        if is_reference(value):
            self.flags[key] = value
            return
        wanted = {"api-key": "LLAMA_API_KEY", "hf-token": "HF_TOKEN"}.get(key) or key.upper()
        name = self.secrets.reference(wanted.replace("-", "_"), value, str(self.at[-1]))
        self.flags[key] = env_reference(name)
        self.changed(secret_told(name), ("flags", key), word)

    def _unknown(self, word: str, values: list[str]) -> None:
        """A flag that the table does not have."""
        if any(PORT in value for value in values):
            self.lost(NO_PORT, word)
        elif is_secret_name(word.lstrip("-")):
            self._secret(word.lstrip("-"), ",".join(values), word)
        elif self.ours and self.table is not None:
            self.args += [word, *values]
            message = f"no flag of {self.table.program}: passed on, and may be refused"
            self.changed(message, ("args",), word)
        else:
            self.flags[word.lstrip("-")] = typed(values[0]) if values else True

    def _located(self, path: str) -> str:
        whole = located(path, self.folder)
        self.relative = self.relative or (whole != path and not path.startswith("~/"))
        return whole

    def lost(self, message: str, word: str = "") -> None:
        """Note that what is being read was lost, or one `word` of it."""
        key = self._about(word)
        self.notes.lost(message, part=self.part, key=key, line=self.line, at=self.at)

    def changed(self, message: str, below: Path = (), word: str = "") -> None:
        """Note something about what is being read, at a place `below` that of the settings."""
        at, key = (*self.at, *below), self._about(word)
        self.notes.changed(message, part=self.part, key=key, line=self.line, at=at)

    def _about(self, word: str) -> str:
        return self.key if word.lstrip("-") in ("", self.key) else f"{self.key} {word}"


def secret_told(name: str) -> str:
    """What is said where a secret was left out."""
    return f"the secret is not written here: set {name} in the shell that applies this"


def _refused(row: Row | None) -> str:
    if row is None:
        return ""
    if row.removed:
        return f"removed from llama-server: {row.removed}"
    if row.exits:
        return "it prints something and exits"
    return "it stands for a model of its own: name that as `model:`" if row.downloads else ""
