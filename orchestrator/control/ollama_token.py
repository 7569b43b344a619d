"""Asks an Ollama server for a token, of a model that it has in memory anyway.

Nothing is ever loaded to be probed, nothing reloaded, and nothing stays longer for it than one
interval: see `core/hold.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.core.hold import Hold, Terms, held, terms
from orchestrator.core.liveness import Outcome
from orchestrator.core.provision import same_name
from orchestrator.core.residency import FOREVER, Loaded
from orchestrator.core.spec import InstanceSpec
from orchestrator.runtime.ollama_server import running
from orchestrator.runtime.probe import ask

PROMPT = "a"
AFTERWARDS = (0.0, 0.01, 0.03, 0.1, 0.3)
"""Seconds before each look for what a probe has changed: nothing, while others use the model."""
LOOK_WITHIN = 5.0
"""Seconds for a look at what is in memory: a server that is busy answers that at once."""

Exchange = Callable[[str, str, str, str], Awaitable[Outcome]]
"""Method, path, body, and what is asked for."""


class OllamaToken:
    """Remembers, of one server, whose turn it is and how long each model is to stay."""

    def __init__(self, spec: Callable[[], InstanceSpec], exchange: Exchange) -> None:
        self._spec = spec
        self._exchange = exchange
        self._holds: dict[str, Hold] = {}
        self._embeds: set[str] = set()
        self._last = ""
        self._unwell = False

    async def look(self) -> Outcome:
        """A token of the model whose turn it is; the server's version where there is none."""
        loaded = await self._loaded() or []
        self._holds = {m.name: self._holds[m.name] for m in loaded if m.name in self._holds}
        now, interval = time.time(), self._spec().liveness.interval
        for model in self._in_turn(loaded):
            asked = terms(model, self._holds.get(model.name), now=now, interval=interval)
            if asked is not None:
                return await self._token(model, asked)
        self._last, self._unwell = "", False
        return await self._exchange("GET", "/api/version", "", "its version")

    def _in_turn(self, loaded: list[Loaded]) -> list[Loaded]:
        """Who may be asked, the next one first: one that did not answer is asked again."""
        holds = self._spec().holds
        declared = {same_name(m.name) for m in holds.models} if holds else set[str]()
        ours = [model for model in loaded if same_name(model.name) in declared]
        row = sorted(ours or loaded, key=lambda model: model.name)
        start = next((i for i, m in enumerate(row) if m.name >= self._last), 0)
        if row and row[start].name == self._last and not self._unwell:
            start += 1
        return row[start:] + row[:start]

    async def _token(self, model: Loaded, asked: Terms) -> Outcome:
        outcome = await self._generate(model, asked)
        self._last = model.name
        self._unwell = outcome.status is None or outcome.status >= 500
        if model.expires_at == FOREVER:
            return outcome
        after = await self._afterwards(model)
        if after is None or after.expires_at == FOREVER:
            self._holds.pop(model.name, None)
        else:
            known = self._holds.get(model.name)
            hold = held(asked, known, before=model, after=after, now=time.time())
            self._holds[model.name] = hold
        return outcome

    async def _afterwards(self, model: Loaded) -> Loaded | None:
        """The model as it is shown once the probe is over, of which its answer comes first."""
        after = None
        for pause in AFTERWARDS:
            await asyncio.sleep(pause)
            after = {m.name: m for m in await self._loaded() or []}.get(model.name)
            if after is None or after.expires_at != model.expires_at:
                break
        return after

    async def _generate(self, model: Loaded, asked: Terms) -> Outcome:
        if model.name not in self._embeds:
            more = {"prompt": PROMPT, "raw": True, "stream": False}
            body = _body(model, asked, {"num_predict": 1}, more)
            outcome = await self._exchange(
                "POST", "/api/generate", body, f"a token of {model.name}"
            )
            if "does not support generate" not in outcome.said:
                return outcome
            self._embeds.add(model.name)
        body = _body(model, asked, {}, {"input": PROMPT})
        return await self._exchange("POST", "/api/embed", body, f"an embedding of {model.name}")

    async def _loaded(self) -> list[Loaded] | None:
        """What is in memory; None when it does not say."""
        spec = self._spec()
        within = min(LOOK_WITHIN, spec.liveness.down)
        answer = await ask(spec.endpoint, "GET", "/api/ps", within=within)
        if answer is None or answer.status != 200:
            return None
        try:
            models = running(json.loads(answer.body))
        except (ValueError, AttributeError, RecursionError):
            return None
        return [Loaded(one.name, one.digest, one.expires_at, one.context) for one in models]


def _body(model: Loaded, asked: Terms, options: dict[str, Any], more: dict[str, Any]) -> str:
    """With the context that it was loaded with: with another it would be loaded anew."""
    if model.context:
        options = {**options, "num_ctx": model.context}
    body: dict[str, Any] = {"model": model.name, "options": options, **more}
    if asked.keep_alive is not None:
        body["keep_alive"] = round(asked.keep_alive, 3)
    return json.dumps(body)
