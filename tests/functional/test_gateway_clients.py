"""The clients that people have, at the gateway: with llama-server and with Ollama behind it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama as ollama_client
import openai
import pytest

from models.make_tiny import write_tiny_embedding
from tests.look import rows, status, until_row
from tests.ollama_world import OllamaWorld, cli
from tests.world import World, kill

pytestmark = [pytest.mark.timeout(180)]

TOKEN = "only-for-this-test"

DATA = Path(__file__).parent.parent / "data"

HI: Any = {"role": "user", "content": "hot"}

LLAMA, OLLAMA = "chat", "made"
"""Names of the same model, served by the one and by the other."""

LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "looks",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string", "enum": ["hot"]}},
            "required": ["at"],
        },
    },
}


@dataclass(frozen=True)
class Served:
    """A gateway with a token, and what is behind it."""

    world: OllamaWorld
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, token: str = TOKEN) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0)

    def anthropic(self, token: str = TOKEN) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key=token, max_retries=0)

    def ollama(self, token: str = TOKEN) -> ollama_client.Client:
        return ollama_client.Client(self.url, headers={"Authorization": f"Bearer {token}"})

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, model: Path, llama_server: str, ollama: str
) -> Iterator[Served]:
    """One gateway for the whole file: each test leaves it as it was."""
    folder = tmp_path_factory.mktemp("gateway")
    env = {"ORCHESTRATE_LLAMA_SERVER": llama_server, "ORCHESTRATE_OLLAMA": ollama}
    world = OllamaWorld(folder, model, {"PATH": "/usr/bin:/bin", **env})
    vectors = write_tiny_embedding(folder / "vectors.gguf")
    # Its template begins no answer, so a grammar can: a call of a tool begins with the `@` that
    # the bias makes it say first.
    flags = {"ctx-size": 4096, "chat-template-file": str(DATA / "tool-calls.jinja")}
    profile = world.ollamas(
        {
            LLAMA: {"model": str(model), "port": "auto", "flags": flags},
            "caller": {
                "model": str(model),
                "port": "auto",
                "flags": {**flags, "logit-bias": "67+1000"},
            },
            "vectors": {"model": str(vectors), "port": "auto", "flags": {"embeddings": True}},
            "o": {
                "engine": "ollama",
                "port": "auto",
                "models": [
                    {"name": OLLAMA, "gguf": str(model), "preload": True},
                    {"name": "made-vectors", "gguf": str(vectors)},
                ],
            },
        },
        gateway={"port": world.port(), "token": TOKEN},
    )
    try:
        world.run("apply", profile, timeout=120)
        yield Served(world, status(world)["gateway"]["port"])
    finally:
        world.end()


# --- what works -----------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.ollama
@pytest.mark.parametrize("name", [LLAMA, OLLAMA])
def test_the_client_of_openai(served: Served, name: str) -> None:
    with served.openai() as client:
        assert {LLAMA, "caller", "vectors", OLLAMA} <= {one.id for one in client.models.list()}
        assert client.models.retrieve(name).id == name

        raw = client.chat.completions.with_raw_response.create(
            model=name, messages=[HI], max_tokens=3
        )
        assert raw.headers["x-orchestrate-instance"] == {LLAMA: LLAMA, OLLAMA: "o"}[name]
        said = raw.parse()
        assert said.choices[0].message.content
        assert said.usage
        assert said.usage.completion_tokens == 3

        stream = client.chat.completions.create(
            model=name, messages=[HI], max_tokens=3, stream=True
        )
        pieces = list(stream)
        assert "".join(one.choices[0].delta.content or "" for one in pieces if one.choices)
        assert [one.choices[0].finish_reason for one in pieces if one.choices][-1] == "length"

        assert client.completions.create(model=name, prompt="hot", max_tokens=2).choices[0].text
        texts = client.completions.create(model=name, prompt="hot", max_tokens=2, stream=True)
        assert "".join(one.choices[0].text for one in texts if one.choices)

        told = client.responses.create(model=name, input="hot", max_output_tokens=2)
        assert told.output_text


@pytest.mark.real
@pytest.mark.ollama
@pytest.mark.parametrize("name", ["vectors", "made-vectors"])
def test_vectors_for_the_clients_of_openai_and_ollama(served: Served, name: str) -> None:
    with served.openai() as client:
        made = client.embeddings.create(model=name, input=["hot", "some word"])
        assert [len(one.embedding) for one in made.data] == [64, 64]
    with served.ollama() as client:
        both = client.embed(name, ["hot", "some word"])
        assert [len(one) for one in both.embeddings] == [64, 64]
        assert both.prompt_eval_count
        assert both.embeddings[0] == pytest.approx(made.data[0].embedding, abs=1e-3)
        assert client.embed(name, "hot").embeddings[0] == pytest.approx(both.embeddings[0])
        assert len(client.embed(name, "hot", dimensions=3).embeddings[0]) == 3
        assert len(client.embeddings(name, "hot").embedding) == 64


@pytest.mark.real
@pytest.mark.ollama
@pytest.mark.parametrize("name", [LLAMA, OLLAMA])
def test_the_client_of_anthropic(served: Served, name: str) -> None:
    with served.anthropic() as client:
        assert name in {one.id for one in client.models.list()}
        message = client.messages.create(model=name, max_tokens=3, messages=[HI])
        first = message.content[0]
        assert first.type == "text"
        assert first.text
        assert message.stop_reason == "max_tokens"
        with client.messages.stream(model=name, max_tokens=3, messages=[HI]) as stream:
            assert "".join(stream.text_stream)
            assert stream.get_final_message().usage.output_tokens == 3
        if name == LLAMA:
            assert client.messages.count_tokens(model=name, messages=[HI]).input_tokens > 3


@pytest.mark.real
@pytest.mark.ollama
@pytest.mark.parametrize("name", [LLAMA, OLLAMA])
def test_the_client_of_ollama(served: Served, name: str) -> None:
    few = {"num_predict": 3, "temperature": 0}
    with served.ollama() as client:
        listed = {one.model: one for one in client.list().models}
        assert {LLAMA, "vectors", OLLAMA} <= set(listed)
        assert listed[name].size
        assert listed[name].size > 400_000
        assert len(listed[name].digest or "") >= 12
        assert listed[name].details
        assert listed[name].details.family == "llama"
        assert listed["vectors"].details
        assert listed["vectors"].details.family == "bert"
        running = {one.model: one for one in client.ps().models}
        assert {LLAMA, OLLAMA} <= set(running)
        shown = client.show(name)
        assert "completion" in (shown.capabilities or ())
        assert shown.modelinfo
        assert shown.modelinfo["llama.context_length"] == 4096

        whole = client.chat(name, [HI], options=few)
        assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 3)
        # An Ollama says what it calls it itself.
        assert (whole.model or "").removesuffix(":latest") == name
        parts = list(client.chat(name, [HI], options=few, stream=True))
        assert "".join(one.message.content or "" for one in parts) == whole.message.content
        assert [one.done for one in parts[:-1]] == [False] * (len(parts) - 1)
        assert (parts[-1].done_reason, parts[-1].eval_count) == ("length", 3)
        for one in (whole, parts[-1]):
            assert one.prompt_eval_count
            assert one.eval_duration
            assert one.total_duration

        text = client.generate(name, "hot", options=few)
        assert (text.done_reason, text.eval_count) == ("length", 3)
        told = list(client.generate(name, "hot", options=few, stream=True))
        assert "".join(one.response for one in told) == text.response
        assert client.generate(name, "hot", raw=True, options=few).response
        assert client.generate(name).done_reason == "load"


@pytest.mark.real
@pytest.mark.ollama
def test_calls_of_tools_and_formats_from_llama_server(served: Served) -> None:
    few = {"num_predict": 55, "temperature": 0}
    with served.ollama() as client:
        whole = client.chat("caller", [HI], tools=[LOOK], options=few)
        calls = whole.message.tool_calls or []
        assert (calls[0].function.name, calls[0].function.arguments) == ("look", {"at": "hot"})
        parts = list(client.chat("caller", [HI], tools=[LOOK], options=few, stream=True))
        told = [call for one in parts for call in one.message.tool_calls or []]
        assert told[0].function.arguments == {"at": "hot"}
        # The answer of the tool goes back as the clients of Ollama do it.
        result = {"role": "tool", "tool_name": "look", "content": "it is hot"}
        more = client.chat("caller", [HI, whole.message, result], options={"num_predict": 2})
        assert more.message.content

        schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
        for text in (
            client.chat(LLAMA, [HI], format=schema, options=few).message.content,
            client.generate(LLAMA, "hot", format=schema, options=few).response,
            client.generate(LLAMA, "hot", raw=True, format=schema, options=few).response,
        ):
            assert json.loads(text or "") == {"a": "x"}
    with served.openai() as client:
        said = client.chat.completions.create(
            model="caller", messages=[HI], tools=[LOOK], max_tokens=55, temperature=0
        )
        called = (said.choices[0].message.tool_calls or [])[0]
        assert called.type == "function"
        assert called.function.name == "look"


# --- what does not --------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.ollama
def test_a_model_that_is_not_there_is_each_clients_own_exception(served: Served) -> None:
    with served.openai() as one, pytest.raises(openai.NotFoundError, match="'chat'"):
        one.chat.completions.create(model="chatt", messages=[HI])
    with served.openai() as one, pytest.raises(openai.NotFoundError):
        one.models.retrieve("chatt")
    with served.anthropic() as two, pytest.raises(anthropic.NotFoundError, match="chat"):
        two.messages.create(model="chatt", max_tokens=1, messages=[HI])
    with served.ollama() as three:
        for ask in (lambda: three.chat("chatt", [HI]), lambda: three.show("chatt")):
            with pytest.raises(ollama_client.ResponseError, match="chat") as told:
                ask()
            assert told.value.status_code == 404


@pytest.mark.real
@pytest.mark.ollama
def test_a_wrong_token_is_each_clients_own_exception(served: Served) -> None:
    with served.openai("wrong") as one, pytest.raises(openai.AuthenticationError):
        one.chat.completions.create(model=LLAMA, messages=[HI])
    with served.openai("wrong") as one, pytest.raises(openai.AuthenticationError):
        one.models.list()
    with served.anthropic("wrong") as two, pytest.raises(anthropic.AuthenticationError):
        two.messages.create(model=LLAMA, max_tokens=1, messages=[HI])
    with served.ollama("wrong") as three, pytest.raises(ollama_client.ResponseError) as told:
        three.chat(LLAMA, [HI])
    assert told.value.status_code == 401


@pytest.mark.real
@pytest.mark.ollama
@pytest.mark.parametrize("name", [LLAMA, OLLAMA])
def test_what_is_declared_is_not_changed_by_requests(served: Served, name: str) -> None:
    with served.ollama() as client:
        changes: list[Callable[[], Any]] = [
            lambda: client.pull(name),
            lambda: list(client.pull(name, stream=True)),
            lambda: client.push(name),
            lambda: client.create(name, from_=OLLAMA),
            lambda: client.copy(name, "other"),
            lambda: client.delete(name),
        ]
        for change in changes:
            with pytest.raises(ollama_client.ResponseError, match="declared in the profile") as no:
                change()
            assert no.value.status_code == 403
        assert name in {one.model for one in client.list().models}
    with served.ollama() as client, pytest.raises(ollama_client.ResponseError, match="unload"):
        client.generate(LLAMA, keep_alive=0)


@pytest.mark.real
@pytest.mark.ollama
def test_the_engines_own_errors_come_through(served: Served) -> None:
    with served.openai() as client, pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model=LLAMA, messages="hot")  # type: ignore[arg-type]
    # A form finds its instance by the model that it names, and is passed on as it is.
    sound = ("a.wav", b"RIFF" + bytes(100_000), "audio/wav")
    with served.openai() as client, pytest.raises(openai.APIStatusError) as told:
        client.audio.transcriptions.create(model=LLAMA, file=sound)
    assert told.value.response.headers["x-orchestrate-instance"] == LLAMA
    assert "audio" in str(told.value)
    with served.openai() as client, pytest.raises(openai.APIStatusError) as told:
        client.audio.transcriptions.create(model=OLLAMA, file=sound)
    assert told.value.response.headers["x-orchestrate-instance"] == "o"
    with served.ollama() as client, pytest.raises(ollama_client.ResponseError, match="embeddings"):
        client.embed(LLAMA, "hot")
    with served.http() as http:
        for path in ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking"):
            body = {"model": "vectors", "query": "hot", "documents": ["a", "b"]}
            answer = http.post(path, json=body)
            assert answer.headers["x-orchestrate-instance"] == "vectors"
            assert answer.status_code in (200, 501), answer.text
        bad = http.post("/api/chat", json={"model": LLAMA, "messages": [1]})
        assert (bad.status_code, list(bad.json())) == (400, ["error"])


@pytest.mark.real
@pytest.mark.ollama
def test_an_instance_that_dies_in_the_middle_is_told_in_each_protocol(served: Served) -> None:
    def read(pieces: Iterable[Any]) -> None:
        """All of them; after the second, the instance is killed."""
        for at, _ in enumerate(pieces):
            if at == 1:
                row = until_row(served.world, LLAMA, lambda row: row["phase"] == "ready")
                kill(row["pid"])

    long = {"num_predict": 3500}
    with served.ollama() as client:
        told = client.generate(LLAMA, "hot", stream=True, options=long)
        with pytest.raises(ollama_client.ResponseError, match="broke off"):
            read(told)
    with served.openai() as client:
        chunks = client.chat.completions.create(
            model=LLAMA, messages=[HI], max_tokens=3500, stream=True
        )
        with pytest.raises(openai.APIError, match="broke off"):
            read(chunks)
    with (
        served.anthropic() as client,
        client.messages.stream(model=LLAMA, max_tokens=3500, messages=[HI]) as stream,
        pytest.raises(anthropic.APIError, match="broke off"),
    ):
        read(stream.text_stream)
    until_row(served.world, LLAMA, lambda row: row["phase"] == "ready")


@pytest.mark.real
@pytest.mark.ollama
def test_an_instance_by_its_name_with_all_that_it_offers(served: Served) -> None:
    with served.http() as http:
        at = f"/instances/{LLAMA}"
        assert http.get(f"{at}/props").json()["total_slots"] == 4
        assert http.head(f"{at}/health").status_code == 200
        assert http.get(f"{at}/health").json() == {"status": "ok"}
        assert http.post(f"{at}/tokenize?x=1", json={"content": "hot"}).json()["tokens"]
        assert http.get("/instances/o/api/version").json()["version"]
        assert http.get("/instances/nobody/props").status_code == 404
        assert "instances" in http.post("/tokenize", json={"content": "hot"}).text
        offered = {"Connection": "Upgrade", "Upgrade": "websocket"}
        refused = http.get(f"{at}/", headers=offered)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "no-websockets")
        # What is merely offered is not taken, and the body is read.
        offered = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "A"}
        for _ in range(2):
            answer = http.post(f"{at}/tokenize", json={"content": "hot"}, headers=offered)
            assert answer.json()["tokens"]


# --- without a token ------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.ollama
def test_the_command_line_of_ollama_and_pages_of_browsers(world: World, ollama: str) -> None:
    port = world.port()
    profile = world.profile({"chat": {"port": "auto"}}, gateway={"port": port})
    world.run("apply", profile)
    home = world.folder
    assert "chat" in cli(ollama, port, "list", home=home)
    assert "chat" in cli(ollama, port, "ps", home=home)
    assert "llama" in cli(ollama, port, "show", "chat", home=home)
    url = f"http://127.0.0.1:{port}"
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-a"}
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/").text == "Ollama is running"
        assert http.head("/").status_code == 200
        here, there = {"origin": "http://localhost:3000"}, {"origin": "http://evil.example"}
        may = http.options("/v1/models", headers={**asks, **here})
        assert (may.status_code, may.headers["access-control-allow-headers"]) == (204, "x-a")
        read = http.get("/v1/models", headers=here)
        assert read.headers["access-control-allow-origin"] == here["origin"]
        body = {"model": "chat", "messages": [HI], "max_tokens": 1}
        told = http.post("/v1/chat/completions", json=body, headers=here)
        # The engine would let everybody read it, with credentials.
        assert told.headers["access-control-allow-origin"] == here["origin"]
        assert "access-control-allow-credentials" not in told.headers
        for headers in ({**asks, **there}, {"host": "evil.example"}):
            assert http.options("/v1/models", headers={**asks, **headers}).status_code == 403
        assert http.post("/v1/chat/completions", json=body, headers=there).status_code == 403
    assert rows(world)["chat"]["phase"] == "ready"
