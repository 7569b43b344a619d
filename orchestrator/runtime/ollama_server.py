"""One Ollama server over HTTP, as the work on its models needs it.

What is one short answer is asked by the probe's means, at a fraction of the price. `httpx` is for
streams and uploads, and loaded by the first of them: whose models are all there never pays for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

from orchestrator.core.provision import Tag
from orchestrator.core.spec import Endpoint, ModelFacts
from orchestrator.runtime.probe import ask

if TYPE_CHECKING:
    import httpx

ANSWER = 10.0
"""Seconds for what an idle server answers at once, and a busy one soon."""
MEMORY_ANSWER = 3.0
CONNECT = 5.0
CENTURY = 100 * 365 * 86400.0
"""An expiry so far away is Ollama's way of saying never."""
UPLOAD_CHUNK = 1 << 20
MAX_LINE = 1 << 20


class OllamaError(Exception):
    """The server refused, in its own words. `status` is HTTP's; 200 when it began well."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


class OllamaUnreachableError(Exception):
    """No answer, or one that broke off. It says nothing of what was asked for."""


class Running(Struct, frozen=True):
    """A model in memory, as `/api/ps` shows it. `expires_at` is wall-clock seconds."""

    name: str
    digest: str
    expires_at: float
    context: int


class Progress(Struct, frozen=True):
    """A line of a pull or a build; bytes are of one layer (`digest`), where there is one."""

    status: str
    digest: str = ""
    done: int = 0
    total: int = 0


class Shown(Struct, frozen=True):
    """What `/api/show` tells of a model that matters here. `blobs` are the hex digests of its
    weights and projectors, the weights first."""

    blobs: tuple[str, ...]
    capabilities: tuple[str, ...] | None


class OllamaServer:
    """The way to one server. Close it when done."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._http: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def _client(self) -> httpx.AsyncClient:
        """Made at its first use. Its library takes a tenth of a second to load: in a thread."""
        if self._http is None:
            await asyncio.to_thread(importlib.import_module, "httpx")
            import httpx

            # Somebody else may have been quicker.
            self._http = self._http or httpx.AsyncClient(
                base_url=self._endpoint.url,
                timeout=httpx.Timeout(None, connect=CONNECT),
                limits=httpx.Limits(max_connections=None, keepalive_expiry=60.0),
                trust_env=False,
            )
        return self._http

    # --- looking --------------------------------------------------------------------------------

    async def tags(self) -> list[Tag]:
        """Every model that it has."""
        said = await self._ask("GET", "/api/tags")
        return [_tag(one) for one in _objects(said.get("models"))]

    async def running(self) -> list[Running]:
        """What is in its memory. Unanswered while it loads one."""
        return running(await self._ask("GET", "/api/ps", within=MEMORY_ANSWER))

    async def show(self, name: str) -> Shown:
        said = await self._ask("POST", "/api/show", {"model": name})
        lines = str(said.get("modelfile", "")).splitlines()
        paths = [line.removeprefix("FROM ") for line in lines if line.startswith("FROM ")]
        blobs = [path.rpartition("sha256-")[2] for path in paths if "sha256-" in path]
        return Shown(tuple(blobs), _words(said.get("capabilities")))

    async def has_blob(self, digest: str) -> bool:
        """Whether it has a content with that digest (hex digits)."""
        try:
            await self._ask("HEAD", f"/api/blobs/sha256:{digest}")
        except OllamaError as error:
            if error.status == 404:
                return False
            raise
        return True

    # --- changing -------------------------------------------------------------------------------

    def pull(self, name: str, *, insecure: bool) -> contextlib.AbstractAsyncContextManager[Lines]:
        return self._stream("/api/pull", {"model": name, "insecure": insecure})

    def create(self, request: Mapping[str, Any]) -> contextlib.AbstractAsyncContextManager[Lines]:
        return self._stream("/api/create", dict(request))

    async def upload(self, digest: str, path: str, sent: Callable[[int], None]) -> None:
        """Bring a file into its store; `sent` is told the bytes so far. OSError when unreadable."""
        with await asyncio.to_thread(open, path, "rb") as file:  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            size = file.seek(0, 2)
            file.seek(0)

            async def chunks() -> AsyncGenerator[bytes]:
                done = 0
                while chunk := await asyncio.to_thread(file.read, UPLOAD_CHUNK):
                    yield chunk
                    done += len(chunk)
                    sent(done)

            await self._send(f"/api/blobs/sha256:{digest}", chunks(), size)

    async def copy(self, source: str, destination: str) -> None:
        await self._ask("POST", "/api/copy", {"source": source, "destination": destination})

    async def delete(self, name: str) -> None:
        """Remove a tag, and what only it has used. One that is not there is no error."""
        try:
            await self._ask("DELETE", "/api/delete", {"model": name}, within=None)
        except OllamaError as error:
            if error.status != 404:
                raise

    async def keep(
        self, name: str, *, seconds: float, embeds: bool, context: int | None = None
    ) -> None:
        """Load it, if it is not in memory, and tell how long it is to stay there (inf: for ever).

        `context` is that of a model in memory which is not to be loaded anew for having another.
        """
        keep: int = -1 if math.isinf(seconds) else max(round(seconds), 1)
        body: dict[str, Any] = {"model": name, "keep_alive": keep, "stream": False}
        if context:
            body["options"] = {"num_ctx": context}
        if not embeds:
            try:
                await self._ask("POST", "/api/generate", body, within=None)
            except OllamaError as error:
                if "does not support generate" not in str(error):
                    raise
            else:
                return
        await self._ask("POST", "/api/embed", body | {"input": []}, within=None)

    async def unload(self, name: str) -> None:
        """Out of memory, once it has answered what it is asked."""
        body: dict[str, Any] = {"model": name, "keep_alive": 0, "stream": False}
        try:
            await self._ask("POST", "/api/generate", body)
        except OllamaError as error:
            if error.status != 404:
                raise

    # --- the wire -------------------------------------------------------------------------------

    async def _ask(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        within: float | None = ANSWER,
    ) -> dict[str, Any]:
        """One answer, within so many seconds; None: it takes as long as it takes."""
        content = json.dumps(body) if body is not None else ""
        answer = await ask(self._endpoint, verb, path, within=within, body=content)
        if answer is None:
            late = f" in {within:g} s" if within is not None else ": the connection broke off"
            raise OllamaUnreachableError(f"no answer{late}")
        if answer.status >= 400:
            raise OllamaError(_refusal(answer.body, answer.status), answer.status)
        return _object(answer.body)

    async def _send(self, path: str, content: AsyncIterator[bytes], size: int) -> None:
        client = await self._client()
        import httpx

        try:
            response = await client.post(
                path, content=content, headers={"Content-Length": str(size)}
            )
        except httpx.HTTPError as error:
            raise OllamaUnreachableError(_said(error)) from error
        if response.status_code >= 400:
            raise OllamaError(
                _refusal(response.content, response.status_code), response.status_code
            )

    @contextlib.asynccontextmanager
    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[Lines]:
        """Lines as they come. Leaving it early ends what is under way on the server."""
        client = await self._client()
        import httpx

        try:
            async with client.stream("POST", path, json=body) as response:
                if response.status_code >= 400:
                    content = await response.aread()
                    status = response.status_code
                    raise OllamaError(_refusal(content, status), status)
                yield Lines(response)
        except httpx.HTTPError as error:
            raise OllamaUnreachableError(_said(error)) from error


class Lines:
    """The lines of a pull or a build."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> Progress | None:
        """The next one, None at a good end. Raises `OllamaError`, `OllamaUnreachableError`."""
        import httpx

        try:
            line = await anext(self._lines, None)
        except httpx.HTTPError as error:
            raise OllamaUnreachableError(_said(error)) from error
        if line is None:
            raise OllamaUnreachableError("the answer broke off")
        said = _object(line)
        if "error" in said:
            raise OllamaError(str(said["error"]))
        status = str(said.get("status", ""))
        if status == "success":
            return None
        return Progress(
            status, str(said.get("digest", "")), _count(said, "completed"), _count(said, "total")
        )


def _tag(one: Mapping[str, Any]) -> Tag:
    name = str(one.get("name") or one.get("model", ""))
    digest, words = str(one.get("digest", "")), _words(one.get("capabilities"))
    said = one.get("details")
    details: Mapping[str, Any] = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    facts = ModelFacts(
        family=str(details.get("family", "")),
        parameter_size=str(details.get("parameter_size", "")),
        quantization=str(details.get("quantization_level", "")),
        size=_count(one, "size"),
        digest=digest,
        modified=str(one.get("modified_at", "")),
        capabilities=words or (),
    )
    return Tag(name, digest, words, facts)


def running(said: Mapping[str, Any]) -> list[Running]:
    """The models in an answer of `/api/ps`."""
    return [_running(one) for one in _objects(said.get("models"))]


def _running(one: Mapping[str, Any]) -> Running:
    name = str(one.get("name") or one.get("model", ""))
    until = _instant(str(one.get("expires_at", "")))
    return Running(name, str(one.get("digest", "")), until, _count(one, "context_length"))


def _instant(text: str) -> float:
    """Wall-clock seconds; for ever when it is farther away than anybody means."""
    # Python reads no more than six digits of a fraction, Go writes nine.
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    fraction = f".{rest[: min(digits, 6)]}" if dot and digits else ""
    try:
        moment = datetime.fromisoformat(f"{head}{fraction}{rest[digits:]}".replace("Z", "+00:00"))
        now = datetime.now(moment.tzinfo)
        far = (moment - now).total_seconds() > CENTURY
        return math.inf if far else moment.timestamp()
    except (ValueError, OverflowError):
        return math.inf


def _words(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, cast(list[Any], value))) if isinstance(value, list) else None


def _count(said: Mapping[str, Any], key: str) -> int:
    value = said.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _objects(value: Any) -> list[dict[str, Any]]:
    entries = cast(list[Any], value) if isinstance(value, list) else []
    return [cast(dict[str, Any], one) for one in entries if isinstance(one, dict)]


def _object(content: bytes | str) -> dict[str, Any]:
    said: Any = None
    with contextlib.suppress(ValueError):
        said = json.loads(content or "null")
    return cast(dict[str, Any], said) if isinstance(said, dict) else {}


def _refusal(content: bytes, status: int) -> str:
    said = _object(content).get("error")
    return str(said) if said else f"HTTP {status}"


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
