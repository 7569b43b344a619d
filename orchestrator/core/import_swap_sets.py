"""Which models of llama-swap are loaded at once, which stay, and which are there from the start."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.import_draft import Notes
from orchestrator.core.import_gateway import together
from orchestrator.core.import_swap_config import SwapConfig, settings_of
from orchestrator.core.nodes import Entry, ScalarNode

_GROUP = (
    "one at a time is not carried over: its members are loaded together as far as memory allows, "
    "and room is made by what was not used for longest"
)
_MATRIX = (
    "which may be loaded together is not carried over: as many are as fit into memory, and room is "
    "made by what was not used for longest; `pin: true` keeps one that is slow to load"
)
_PRIORITY = (
    "who is served first is not said by model: a request says it (`x-priority: high`), or a token"
)


def preloaded(config: SwapConfig) -> dict[str, int]:
    """What is to be loaded from the start, each with its line."""
    return dict(config.words(config.below("hooks", "on_startup", "preload")))


def staying(config: SwapConfig) -> set[str]:
    """Models that no other group may unload, and that do not swap among themselves."""
    kept: set[str] = set()
    for group in _groups(config):
        members = dict(config.words(settings_of(group).get("members")))
        if _says(group, "persistent", False) and (
            len(members) == 1 or not _says(group, "swap", True)
        ):
            kept |= members.keys()
    return kept


def said_of_sets(config: SwapConfig, names: list[str], notes: Notes) -> None:
    """Note what of it is not carried over; `names` are the instances."""
    matrix, groups = _matrix(config), list(_groups(config))
    if matrix is not None:
        notes.changed(_MATRIX, key=matrix.key, line=matrix.line, at=("instances",))
    models = {model.name for model in config.models}
    for group in groups:
        members = dict(config.words(settings_of(group).get("members"))).keys() & models
        if not members:
            continue
        several = len(members) > 1
        if (several and _says(group, "swap", True)) or _says(group, "exclusive", True):
            notes.changed(_GROUP, key=group.key, line=group.line, at=("instances",))
    if matrix is None and not groups:
        together(names, "llama-swap", notes)
    order = config.below("routing", "scheduler", "settings", "fifo", "priority")
    if order is not None:
        notes.lost(_PRIORITY, part="routing", key=order.key, line=order.line, at=("gateway",))


def _matrix(config: SwapConfig) -> Entry | None:
    """The one that is used: the default is groups."""
    if config.said(config.below("routing", "router", "use")) == "matrix":
        return config.below("routing", "router", "settings", "matrix")
    return config.below("matrix")


def _groups(config: SwapConfig) -> Iterator[Entry]:
    if _matrix(config) is not None:
        return
    for place in (("groups",), ("routing", "router", "settings", "groups")):
        yield from settings_of(config.below(*place)).values()


def _says(group: Entry, key: str, usual: bool) -> bool:
    entry = settings_of(group).get(key)
    node = entry.value if entry is not None else None
    return node.value if isinstance(node, ScalarNode) and isinstance(node.value, bool) else usual
