"""Asks a running instance for one token, and says how it is: healthy, slow or down.

Who calls it decides what follows: a server of our own is restarted, one that was attached to is
only reported. A server that works on something else is slow, not down: an unanswered probe is
looked into before it is believed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from orchestrator.control.bus import Bus
from orchestrator.control.signs import Signs, signs_of, worked
from orchestrator.core.event import STEADY, Event, EventType
from orchestrator.core.liveness import LOADS, REFUSES, Outcome, Verdict, judge
from orchestrator.core.spec import InstanceSpec
from orchestrator.runtime.probe import Answer, ask

if TYPE_CHECKING:
    from orchestrator.control.ollama_token import OllamaToken

LOOK_WITHIN = 2.0
"""Seconds for a look at the slots of a server that does not answer the probe."""


class InferenceProbe:
    """Asks one run of one instance. Not for concurrent use.

    `server` is its pid, None where that is not visible.
    """

    def __init__(self, spec: Callable[[], InstanceSpec], server: Callable[[], int | None]) -> None:
        self._spec = spec
        self._server = server
        self._ollama: OllamaToken | None = None

    @property
    def wanted(self) -> bool:
        """Whether the instance is to be asked in this way, and can be."""
        spec = self._spec()
        can = spec.inference is not None or spec.holds is not None
        return spec.liveness.mode == "inference" and can

    async def look(self) -> tuple[Verdict, float]:
        """How it is, and how many seconds it took to find out."""
        spec = self._spec()
        inference = spec.inference
        if inference is None:
            outcome = await self._of_ollama().look()
        else:
            outcome = await self._exchange("POST", inference.path, inference.body, "a token")
        return judge(outcome, slow=spec.liveness.slow), outcome.seconds

    def _of_ollama(self) -> OllamaToken:
        if self._ollama is None:
            # Much of what it takes to ask an Ollama is of no use to a llama-server.
            from orchestrator.control.ollama_token import OllamaToken

            self._ollama = OllamaToken(self._spec, self._exchange)
        return self._ollama

    async def _exchange(self, method: str, path: str, body: str, wanted: str) -> Outcome:
        """One question, and where nobody answers it, whether that means anything."""
        spec = self._spec()
        took, answer, busy = await self._answer(spec, method, path, body)
        if answer is not None and answer.status >= 500 and answer.status not in {LOADS, *REFUSES}:
            # What was broken for the one may work for the next: Ollama then begins a new runner.
            took, answer, busy = await self._answer(spec, method, path, body)
        if answer is None:
            return Outcome(took, None, wanted, busy=busy)
        if answer.status == LOADS and spec.inference is None:
            busy = "its queue is full"
        return Outcome(took, answer.status, wanted, said(answer), busy)

    async def _answer(
        self, spec: InstanceSpec, method: str, path: str, body: str
    ) -> tuple[float, Answer | None, str]:
        """Seconds, and the answer; without one, what shows that the server works all the same."""
        down, headers = spec.liveness.down, authorization(spec)

        async def question() -> tuple[float, Answer | None]:
            began = time.monotonic()
            answer = await ask(spec.endpoint, method, path, within=down, body=body, headers=headers)
            return time.monotonic() - began, answer

        asking = asyncio.create_task(question())
        try:
            await asyncio.wait({asking}, timeout=min(spec.liveness.slow, down / 2))
            if asking.done():
                return *asking.result(), ""
            before = await self._signs(spec, headers)
            took, answer = await asking
            if answer is not None:
                return took, answer, ""
            return took, None, worked(before, await self._signs(spec, headers))
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _signs(self, spec: InstanceSpec, headers: Mapping[str, str]) -> Signs:
        signs = await signs_of(self._server())
        slots: tuple[tuple[Any, ...], ...] = ()
        if spec.inference is not None:
            within = min(LOOK_WITHIN, spec.liveness.down / 4)
            found = await ask(spec.endpoint, "GET", "/slots", within=within, headers=headers)
            slots = generating(found) if found is not None else ()
        return replace(signs, slots=slots)


def generating(answer: Answer) -> tuple[tuple[Any, ...], ...]:
    """How far each slot of a llama-server is; nothing when one of them is free."""
    slots = _document(answer.body) if answer.status == 200 else None
    if not isinstance(slots, list):
        return ()
    marks: list[tuple[Any, ...]] = []
    for slot in cast(list[Any], slots):
        if not isinstance(slot, dict) or not cast(dict[str, Any], slot).get("is_processing"):
            return ()
        known = cast(dict[str, Any], slot)
        progress = ("id_task", "n_prompt_tokens_processed", "next_token")
        marks.append(tuple(json.dumps(known.get(key)) for key in progress))
    return tuple(marks)


def said(answer: Answer) -> str:
    """A server's own word on what is wrong: `{"error": "..."}`, or with a message in it."""
    if answer.status == 200:
        return ""
    document = _document(answer.body)
    error = cast(dict[str, Any], document).get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        error = cast(dict[str, Any], error).get("message")
    return error[:200] if isinstance(error, str) else ""


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def authorization(spec: InstanceSpec) -> dict[str, str]:
    """How a llama-server that asks for its key is told one of them. Never shown anywhere."""
    keys = spec.command.env.get("LLAMA_API_KEY", "").split(",")
    argv = spec.command.argv
    if not keys[0] and "--api-key-file" in argv[:-1]:
        try:
            with open(argv[argv.index("--api-key-file") + 1], encoding="utf-8") as file:
                keys = [line.strip() for line in file if line.strip()]
        except (OSError, ValueError):
            keys = []
    return {"Authorization": f"Bearer {keys[0]}"} if keys and keys[0] else {}


class Reports:
    """Posts what the probes of one run find, each time; `steady` when it is what it was."""

    def __init__(self, name: str, start_id: str, bus: Bus) -> None:
        self._name = name
        self._start_id = start_id
        self._bus = bus
        self._last = ""

    def post(self, verdict: Verdict, seconds: float) -> None:
        reason = STEADY if verdict.kind == self._last else verdict.kind
        self._last = verdict.kind
        data = {
            "start_id": self._start_id,
            "class": verdict.kind,
            "latency_s": round(seconds, 4),
        }
        self._bus.post(
            Event(EventType.HEALTH, self._name, reason=reason, message=verdict.message, data=data)
        )

    def forget(self) -> None:
        """It was not asked for a while."""
        self._last = ""


async def report(
    name: str,
    start_id: str,
    spec: Callable[[], InstanceSpec],
    *,
    server: Callable[[], int | None],
    there: Callable[[], bool],
    bus: Bus,
) -> None:
    """Until cancelled: tell how a server is that somebody else runs, while it is `there`.

    `server` is its pid, as far as that is visible.
    """
    probe, reports = InferenceProbe(spec, server), Reports(name, start_id, bus)
    while True:
        await asyncio.sleep(spec().liveness.interval)
        if not there() or not probe.wanted:
            reports.forget()
            continue
        found = await probe.look()
        if there():
            reports.post(*found)
