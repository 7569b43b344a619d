"""Which names clients may ask for, and who serves each."""

from __future__ import annotations

from orchestrator.core.plan import Plan
from orchestrator.core.served import names_of, table
from orchestrator.core.spec import Command, Endpoint, InstanceSpec


def spec(name: str, model: str, alias: str = "") -> InstanceSpec:
    argv = ("llama-server", "--alias", alias) if alias else ("llama-server",)
    return InstanceSpec(
        name=name,
        engine="llama-server",
        command=Command(argv, {}, "/"),
        endpoint=Endpoint("127.0.0.1", 8080),
        model=model,
    )


def served(*specs: InstanceSpec) -> dict[str, list[str]]:
    document = table({one.name: one for one in specs}, {}, Plan())
    return {row["name"]: [aim["target"] for aim in row["aims"]] for row in document["names"]}


def test_a_name_that_was_given_is_not_also_that_of_a_model() -> None:
    found = served(
        spec("qwen3", "/m/qwen3.gguf"),
        spec("thinking", "/m/qwen3.gguf", "coder,deep"),
        spec("other", "/m/coder.gguf"),
    )

    assert found == {
        "qwen3": ["qwen3"],
        "thinking": ["thinking"],
        "coder": ["thinking"],
        "deep": ["thinking"],
        "other": ["other"],
    }


def test_those_that_run_one_model_serve_it_together() -> None:
    one, two = spec("a", "/m/tiny.gguf", "both"), spec("b", "/m/tiny.gguf", "both")

    assert served(one, two) == {"a": ["a"], "b": ["b"], "both": ["a", "b"], "tiny": ["a", "b"]}
    assert names_of(one) == ["a", "both", "tiny"]
