"""Asks the engines themselves: a completion as it comes, a model into memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

from orchestrator.cli.mcp_server.desk import in_thread
from orchestrator.errors import OrchestrateError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import httpx

CONNECTS_WITHIN = 10.0
LONGEST_LINE = 1 << 20
LONGEST_ERROR = 64 << 10


class Wanted(Struct, frozen=True):
    """What is asked of a model. `raw`: the prompt as it is, without the model's chat template."""

    prompt: str
    system: str
    max_tokens: int
    temperature: float | None
    seed: int | None
    stop: tuple[str, ...]
    raw: bool


class Piece(Struct):
    """What comes at once. The last one says how it ended, and what was counted."""

    text: str = ""
    reasoning: str = ""
    finish: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Engines:
    """Those of one state folder, each by its row of the status."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        # Loaded when it is needed: a server begins with each agent.
        import httpx

        # A proxy of the environment is for other places; a certificate may be anybody's here. A
        # connection that is kept may be to a process that is gone.
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(trust_env=False, verify=False, limits=limits)

    async def completion(
        self, row: Mapping[str, Any], model: str, wanted: Wanted
    ) -> AsyncGenerator[Piece]:
        """A completion, piece by piece. Raises `OrchestrateError` in the engine's own words."""
        ollama = row["engine"] == "ollama"
        path, body = _for_ollama(model, wanted) if ollama else _for_llama_server(wanted)
        read = _of_ollama if ollama else _of_llama_server
        async with contextlib.aclosing(self._documents(row, path, body)) as documents:
            async for document in documents:
                if (said := _error_in(document)) is not None:
                    raise _refused(row, said)
                yield read(document)

    async def load(self, row: Mapping[str, Any], model: str, *, within: float) -> None:
        """Have an Ollama bring a model into memory; it answers once it is there."""
        body = {"model": model, "stream": False}
        async with self._asked(row, "/api/generate", body, within) as answer:
            await answer.aread()

    async def _documents(
        self, row: Mapping[str, Any], path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any]]:
        """JSON documents, a line each: as they are, or as server-sent events."""
        async with self._asked(row, path, body, None) as answer:
            rest = ""
            async for chunk in answer.aiter_text():
                *whole, rest = (rest + chunk).split("\n")
                if len(rest) > LONGEST_LINE:
                    raise _refused(row, "a line without an end")
                for line in whole:
                    document = _document(line)
                    if document is not None:
                        yield document
            if (document := _document(rest)) is not None:
                yield document

    @contextlib.asynccontextmanager
    async def _asked(
        self, row: Mapping[str, Any], path: str, body: Mapping[str, Any], within: float | None
    ) -> AsyncGenerator[httpx.Response]:
        """An answer of 200, its body unread. Whoever leaves closes the connection, and the engine
        stops working on it."""
        import httpx

        # Looked up each time: an edit may have given it another.
        key = await in_thread(_key_of, self._settings, row["name"])
        sent: dict[str, Any] = {"json": dict(body), "headers": key}
        sent["timeout"] = httpx.Timeout(within, connect=CONNECTS_WITHIN)
        try:
            async with self._client.stream("POST", row["url"] + path, **sent) as answer:
                if answer.status_code >= 400:
                    raise _refused(row, await _said(answer))
                yield answer
        except httpx.HTTPError as error:
            raise OrchestrateError(
                f"{row['name']} at {row['url']} went away: {str(error) or type(error).__name__}",
                hint=f"`status` and `logs` of {row['name']} show why",
            ) from error


def _key_of(settings: Settings, name: str) -> dict[str, str]:
    """How the server is told its key."""
    from orchestrator.cli.offline import observed_without_daemon
    from orchestrator.control.inference import authorization

    status = observed_without_daemon(settings).get(name)
    return authorization(status.spec) if status is not None else {}


def _for_llama_server(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {"stream": True, "stop": list(wanted.stop)}
    body |= {} if wanted.temperature is None else {"temperature": wanted.temperature}
    body |= {} if wanted.seed is None else {"seed": wanted.seed}
    if wanted.raw:
        return "/completion", {**body, "prompt": wanted.prompt, "n_predict": wanted.max_tokens}
    messages = [{"role": "system", "content": wanted.system}] if wanted.system else []
    messages.append({"role": "user", "content": wanted.prompt})
    more = {"max_tokens": wanted.max_tokens, "stream_options": {"include_usage": True}}
    return "/v1/chat/completions", {**body, **more, "messages": messages}


def _for_ollama(model: str, wanted: Wanted) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {"num_predict": wanted.max_tokens, "stop": list(wanted.stop)}
    options |= {} if wanted.temperature is None else {"temperature": wanted.temperature}
    options |= {} if wanted.seed is None else {"seed": wanted.seed}
    body: dict[str, Any] = {"model": model, "prompt": wanted.prompt, "stream": True}
    body |= {"system": wanted.system} if wanted.system else {}
    return "/api/generate", {**body, "raw": wanted.raw, "options": options}


def _of_llama_server(document: Mapping[str, Any]) -> Piece:
    usage = cast(dict[str, Any], document.get("usage") or {})
    piece = Piece(
        model=_words(document, "model"),
        prompt_tokens=_count(usage, "prompt_tokens") or _count(document, "tokens_evaluated"),
        completion_tokens=_count(usage, "completion_tokens")
        or _count(document, "tokens_predicted"),
    )
    choices = cast(list[dict[str, Any]], document.get("choices") or [])
    for choice in choices[:1]:
        delta = cast(dict[str, Any], choice.get("delta") or {})
        piece.text = _words(delta, "content")
        piece.reasoning = _words(delta, "reasoning_content")
        piece.finish = _words(choice, "finish_reason")
    if "content" in document:
        piece.text = _words(document, "content")
        if document.get("stop"):
            piece.finish = "length" if document.get("stop_type") == "limit" else "stop"
    return piece


def _of_ollama(document: Mapping[str, Any]) -> Piece:
    return Piece(
        text=_words(document, "response"),
        reasoning=_words(document, "thinking"),
        finish=_words(document, "done_reason"),
        model=_words(document, "model"),
        prompt_tokens=_count(document, "prompt_eval_count"),
        completion_tokens=_count(document, "eval_count"),
    )


async def _said(answer: httpx.Response) -> str:
    raw = b""
    async for chunk in answer.aiter_bytes():
        raw += chunk
        if len(raw) > LONGEST_ERROR:
            break
    document = _document(raw.decode("utf-8", "replace"))
    return (_error_in(document) if document else None) or f"it answered {answer.status_code}"


def _refused(row: Mapping[str, Any], said: str) -> OrchestrateError:
    return OrchestrateError(
        f"{row['name']} ({row['engine']}): {said}",
        hint=f"`logs` of {row['name']} shows what it said",
    )


def _document(line: str) -> dict[str, Any] | None:
    try:
        document = json.loads(line.removeprefix("data:").removeprefix("error:"))
    except (ValueError, RecursionError):
        # Blank lines, comments, `[DONE]`.
        return None
    return cast(dict[str, Any], document) if isinstance(document, dict) else None


def _error_in(document: Mapping[str, Any]) -> str | None:
    error = document.get("error")
    if isinstance(error, dict):
        error = cast(dict[str, Any], error).get("message")
    if error is None and "message" in document and "code" in document:
        error = document["message"]
    return str(error)[:2000] if error else None


def _words(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def _count(document: Mapping[str, Any], key: str) -> int | None:
    value = document.get(key)
    return value if isinstance(value, int) else None
