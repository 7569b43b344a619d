"""What llama-swap does between clients and servers, as the `gateway:` of a profile: keys that it
asks for, names that lead to several models, servers elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct, field

from orchestrator.core.import_draft import Names, env_reference, filled, is_reference, readable
from orchestrator.core.import_flags import secret_told
from orchestrator.core.import_instance import Drafting
from orchestrator.core.import_swap_config import SwapConfig, settings_of
from orchestrator.core.import_swap_words import TIMES
from orchestrator.core.nodes import Entry
from orchestrator.core.problem import Path

_AT: Path = ("gateway",)
_NO_LETTERS = re.compile(r"[^A-Za-z0-9]+")

_ONLY_FALLBACK = (
    "a cloud is asked for what cannot be served here: name it under the `fallback:` of a route"
)
_OF_PEERS = {"filters": "requests reach it as they were sent", "timeouts": TIMES}
_CHOSEN = "of those that are ready, the least busy one is asked"


class SwapGateway(Struct):
    """The gateway while it is made. `served` are the instances by what clients call them."""

    config: SwapConfig
    drafting: Drafting
    served: dict[str, str]
    routes: dict[str, Any] = field(default_factory=dict[str, Any])
    _clouds: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    _remote: dict[str, str] = field(default_factory=dict[str, str])
    """Clouds by what clients call their models."""

    def keys(self) -> dict[str, Any]:
        """What the profile's `gateway:` says beside where it listens."""
        tokens = self._tokens()
        self._peers()
        for name, entry, targets in self._selectors():
            self._selector(name, entry, targets)
        blocks = {"cloud": self._clouds, "routes": self.routes}
        return tokens | {key: block for key, block in blocks.items() if block}

    def _tokens(self) -> dict[str, Any]:
        """Keys that clients send: each by a variable, wherever it came from."""
        words = dict(self.config.words(self.config.below("apiKeys")))
        if len(words) == 1:
            [(value, line)] = words.items()
            return {"token": self._secret(value, "GATEWAY_TOKEN", "apiKeys", line, ("token",))}
        tokens: dict[str, Any] = {}
        for number, (value, line) in enumerate(words.items(), start=1):
            name = f"key-{number}"
            below = ("tokens", name, "token")
            secret = self._secret(value, f"GATEWAY_TOKEN_{number}", "apiKeys", line, below)
            tokens[name] = {"token": secret}
        return {"tokens": tokens} if tokens else {}

    def _secret(self, value: str, wanted: str, key: str, line: int, below: Path) -> str:
        if is_reference(value):
            return value
        name = self.drafting.secrets.reference(wanted, value, "gateway")
        self.drafting.notes.changed(secret_told(name), key=key, line=line, at=(*_AT, *below))
        return env_reference(name)

    # --- servers elsewhere ------------------------------------------------------------------------

    def _peers(self) -> None:
        names = Names({*self.served, *self.served.values(), *self.routes})
        wanted = {one for _, _, targets in self._selectors() for one in targets}
        for peer, entry in settings_of(self.config.below("peers")).items():
            self._peer(peer, entry, wanted, names)

    def _peer(self, peer: str, entry: Entry, selected: set[str], names: Names) -> None:
        settings, notes = settings_of(entry), self.drafting.notes
        said, part = self.config.said(settings.get("proxy")), f"peers.{peer}"
        if not _is_url(filled(said)):
            message = f"this is no address: {readable(said)}" if said else "it has no address"
            notes.lost(message, part=part, line=entry.line, at=_AT)
            return
        name = names.name(peer)
        self._clouds[name] = cloud = {"url": f"{said.rstrip('/')}/v1"}
        key = self.config.said(settings.get("apiKey"))
        if key:
            wanted = f"{_NO_LETTERS.sub('_', name).upper()}_API_KEY"
            line, below = settings["apiKey"].line, ("cloud", name, "key")
            cloud["key"] = self._secret(key, wanted, f"{part}.apiKey", line, below)
        at = (*_AT, "cloud", name)
        notes.changed(_ONLY_FALLBACK, part=part, line=entry.line, at=at)
        for one, message in _OF_PEERS.items():
            if one in settings:
                notes.lost(message, part=part, key=one, line=settings[one].line, at=at)
        # A selector may lead to one of its models: then that is a cloud of its own.
        for model, _ in self.config.words(settings.get("models")):
            known = [one for one in (f"{peer}/{model}", model) if one in selected]
            if known:
                own = names.name(f"{peer}-{model}")
                self._clouds[own] = {**cloud, "model": model}
                self._remote |= dict.fromkeys(known, own)

    # --- names that lead to several ---------------------------------------------------------------

    def _selectors(self) -> Iterator[tuple[str, Entry, list[str]]]:
        """Selectors, each with what it leads to, once each."""
        for name, entry in settings_of(self.config.below("selectors")).items():
            targets = dict(self.config.words(settings_of(entry).get("targets")))
            pins = self.config.said(settings_of(entry).get("strategy")) == "pin"
            yield name, entry, [*targets][:1] if pins else [*targets]

    def _selector(self, name: str, entry: Entry, targets: list[str]) -> None:
        notes, part, at = self.drafting.notes, f"selectors.{name}", (*_AT, "routes", name)
        here = list(dict.fromkeys(self.served[one] for one in targets if one in self.served))
        away = list(dict.fromkeys(self._remote[one] for one in targets if one in self._remote))
        if not here:
            message = "none of what it leads to runs here"
            notes.lost(message, part=part, line=entry.line, at=_AT)
            return
        for one in targets:
            if one not in self.served and one not in self._remote:
                message = f"it led to {readable(one)} too, which was not carried over"
                notes.lost(message, part=part, line=entry.line, at=at)
        self.routes[name] = {"to": here, "fallback": away} if away else here
        if len(here) > 1:
            notes.changed(_CHOSEN, part=part, line=entry.line, at=at)


def _is_url(text: str) -> bool:
    """Whether a profile may name it as a server elsewhere."""
    try:
        parts = urlsplit(text)
        clear = not (parts.query or parts.fragment or parts.username) and parts.port != 0
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and " " not in text
    return plain and clear and parts.scheme in ("http", "https") and bool(parts.hostname)
