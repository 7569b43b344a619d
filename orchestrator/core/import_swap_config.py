"""llama-swap's configuration, read: its models, what each starts, and every key with its place.

bytes -> marks for the environment -> YAML nodes -> macros -> command
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core.document import read_document
from orchestrator.core.import_command import Command, read_command, without_comments, words_of
from orchestrator.core.import_draft import UnreadableError, read_foreign
from orchestrator.core.import_macros import Macros, TooMuchError, env_marked, unknown_macro
from orchestrator.core.nodes import Entry, ListNode, MapNode, ScalarNode
from orchestrator.core.source import Source


class SwapModel(Struct, frozen=True):
    """One entry of `models:`. `command` is what it starts, or why that is nothing for a profile."""

    name: str
    entry: Entry
    keys: Mapping[str, Entry]
    macros: Macros
    command: Command | str

    def text(self, key: str) -> str:
        """A value with its macros replaced; empty for a list, or what is not there."""
        return _text(self.keys.get(key), self.macros)

    def texts(self, key: str) -> list[str]:
        """The values of a list, macros replaced; one that stands alone is a list of one."""
        if key not in self.keys:
            return []
        node = self.keys[key].value
        items = node.items if isinstance(node, ListNode) else [node]
        return [self.macros.expanded(one.text) for one in items if isinstance(one, ScalarNode)]

    def line(self, key: str) -> int:
        return self.keys[key].line if key in self.keys else self.entry.line


class SwapConfig(Struct, frozen=True):
    """A configuration as far as it is read without knowing the machine."""

    source: Source
    keys: Mapping[str, Entry]
    macros: Macros
    models: tuple[SwapModel, ...]

    @property
    def programs(self) -> frozenset[str]:
        """The llama-servers that it names, marks in them."""
        commands = (one.command for one in self.models)
        return frozenset(one.program for one in commands if isinstance(one, Command))

    def text(self, key: str) -> str:
        """A value of the whole, its macros replaced; empty for a list, or what is not there."""
        return _text(self.keys.get(key), self.macros)

    def below(self, *keys: str) -> Entry | None:
        """What stands under these keys, one below the other; None where nothing does."""
        entry = self.keys.get(keys[0])
        for key in keys[1:]:
            entry = settings_of(entry).get(key)
        return entry

    def said(self, entry: Entry | None) -> str:
        """What a value says, macros replaced; empty for a list, or what is not there."""
        return _text(entry, self.macros)

    def words(self, entry: Entry | None) -> Iterator[tuple[str, int]]:
        """The words of a list, macros replaced, each with its line; empty ones are none."""
        items = entry.value.items if entry is not None and isinstance(entry.value, ListNode) else ()
        for one in items:
            if isinstance(one, ScalarNode) and one.value is not None and one.text:
                yield self.macros.expanded(one.text), one.line

    def too_much(self) -> UnreadableError:
        """What macros that grow without end are."""
        return _wrong(self.source, self._macros, "its macros bring in too much")

    @property
    def _macros(self) -> Entry:
        return self.keys.get("macros") or self.keys["models"]


def settings_of(entry: Entry | None) -> Mapping[str, Entry]:
    """The keys of a mapping; none for anything else."""
    return entry.value.entries if entry is not None and isinstance(entry.value, MapNode) else {}


def read_llama_swap(data: bytes, file: str) -> SwapConfig:
    """Read a `config.yaml`. Raises `UnreadableError` for what is no such file."""
    source = read_foreign(data, file)
    document = read_document(Source(source.file, env_marked(source.text), source.lines))
    if document.problems:
        raise UnreadableError(*document.problems)
    root = document.root
    if not isinstance(root, MapNode) or "models" not in root.entries:
        hint = "a configuration of llama-swap has `models:`"
        raise UnreadableError(source.problem("no models are declared here", 1, 1, hint=hint))
    models = root.entries["models"].value
    if not isinstance(models, MapNode):
        raise _wrong(source, root.entries["models"], "expected a mapping of models")
    macros = Macros.declared(_macros(root.entries.get("macros"), source))
    empty = SwapConfig(source, root.entries, macros, ())
    try:
        read = tuple(_model(one, macros, source) for one in models.entries.values())
    except TooMuchError:
        raise empty.too_much() from None
    return replace(empty, models=read)


def _macros(entry: Entry | None, source: Source) -> dict[str, str]:
    if entry is None:
        return {}
    if not isinstance(entry.value, MapNode):
        raise _wrong(source, entry, "expected a mapping of macros")
    values: dict[str, str] = {}
    for name, one in entry.value.entries.items():
        if not isinstance(one.value, ScalarNode):
            raise _wrong(source, one, "expected text, a number, true or false")
        values[name] = one.value.text
    return values


def _model(entry: Entry, everywhere: Macros, source: Source) -> SwapModel:
    if not isinstance(entry.value, MapNode):
        raise _wrong(source, entry, "expected the settings of a model, with `cmd:`")
    keys = entry.value.entries
    own = _macros(keys.get("macros"), source)
    macros = everywhere.of_model(entry.key, own)
    return SwapModel(entry.key, entry, keys, macros, _command(keys.get("cmd"), macros))


def _command(entry: Entry | None, macros: Macros) -> Command | str:
    if entry is None or not isinstance(entry.value, ScalarNode):
        return "it has no `cmd:`"
    # A macro in a comment is no macro.
    text = macros.expanded(without_comments(entry.value.text))
    unknown = unknown_macro(text)
    if unknown:
        return f"nothing declares the macro {unknown[:60]!r}"
    try:
        return read_command(words_of(text))
    except ValueError:
        return "a quote in its command is never closed"


def _wrong(source: Source, entry: Entry, message: str) -> UnreadableError:
    return UnreadableError(source.problem(message, entry.line, entry.column))


def _text(entry: Entry | None, macros: Macros) -> str:
    if entry is None or not isinstance(entry.value, ScalarNode) or entry.value.value is None:
        return ""
    return macros.expanded(entry.value.text)
