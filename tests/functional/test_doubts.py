"""What `validate` warns of, though it is valid: what is most likely not meant."""

from __future__ import annotations

from tests.world import World


def test_an_address_of_another_machine_and_a_context_beyond_the_model(world: World) -> None:
    own = world.write(
        "p.yaml",
        f"""\
instances:
  a:
    model: {world.model}
    host: 203.0.113.9
  b:
    model: {world.model}
    flags: {{ctx-size: 999999}}
  c:
    model: {world.model}
    flags: {{ctx-size: 999999, rope-scaling: yarn}}
  d: {{model: {world.model}, host: 127.0.0.5, flags: {{ctx-size: 16384, parallel: 4}}}}
  e: {{model: {world.model}, host: 0.0.0.0}}
""",
    )

    ran = world.run("validate", own)

    first, second = [line for line in ran.err.splitlines() if line.startswith("warning: ")]
    assert f"{own}:4:11: 203.0.113.9 is no address of this machine: a could not listen" in first
    assert f"{own}:7:23: the context of 999,999 tokens is more than the 4,096" in second
    assert "rope scaling stretches it" in ran.err
    assert ran.out == f"{own}: ok, 5 instances\n"
    warnings = world.run("validate", "--json", own).json["warnings"]
    assert [(one["line"], one["path"].rpartition(".")[2]) for one in warnings] == [
        (4, "host"),
        (7, "ctx-size"),
    ]


def test_it_is_never_in_the_way(world: World) -> None:
    profile = world.profile({"a": {"flags": {"ctx-size": 8192, "parallel": 1}}})

    ran = world.run("apply", profile)

    assert "trained" not in ran.err
    assert world.status()["warnings"] == []


def test_a_gateway_that_others_reach_asks_for_a_token(world: World) -> None:
    world.env.update(GATEWAY_TOKEN="s3cret", TOKEN_OF_A="s3cret of a")
    texts = {
        "open.yaml": "gateway: {port: 8080, host: 0.0.0.0}\n",
        "guarded.yaml": "gateway: {port: 8080, host: 0.0.0.0, token: '${env:GATEWAY_TOKEN}'}\n",
        "known.yaml": "gateway: {port: 1, host: '::', tokens: {a: {token: '${env:TOKEN_OF_A}'}}}\n",
        "near.yaml": "gateway: {port: 8080, host: 127.0.0.2}\n",
        "far.yaml": "gateway: {port: 8080, host: 203.0.113.9}\n",
    }
    said = {
        name: world.run("validate", world.write(name, f"{text}instances: {{}}\n")).err
        for name, text in texts.items()
    }

    assert "open.yaml:1:29: whoever reaches 0.0.0.0 may use every model" in said["open.yaml"]
    assert "203.0.113.9 is no address of this machine: the gateway could" in said["far.yaml"]
    assert [said[f"{name}.yaml"] for name in ("guarded", "known", "near")] == [""] * 3
