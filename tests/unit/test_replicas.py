"""`replicas:` and what a `gateway:` may say: what it means, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.core.drift import live_drift, process_drift
from orchestrator.core.gateway_spec import (
    GATEWAY,
    TRIGGERS,
    CloudSpec,
    GatewaySpec,
    RouteAim,
    RouteSpec,
    TokenSpec,
)
from orchestrator.core.gateway_words import changes
from orchestrator.core.parse import parse_profile
from orchestrator.core.plan import Plan
from orchestrator.core.port import PortChooser
from orchestrator.core.resolve import Resolved, Surroundings, needed_engines, resolve_profile
from orchestrator.core.served import table
from orchestrator.core.union import unite
from tests.unit.test_resolve import CATALOG, StandIn

ENV = {"KEY": "sk-1", "OTHER": "sk-2", "BAD": "sk\n", "NUMBER": "007", "T": "secret"}


def said(text: str, *, env: dict[str, str] = ENV) -> list[tuple[str, str]]:
    """`line:column` and message of everything wrong, wherever it is found."""
    parsed = parse_profile(text.encode(), file="/profiles/p.yaml", env=env)
    problems = parsed.problems if parsed.profile is None else meant(text).problems
    return [(f"{p.place.line}:{p.place.column}", p.message) for p in problems]


def meant(text: str, *, file: str = "/profiles/p.yaml", env: dict[str, str] = ENV) -> Resolved:
    parsed = parse_profile(text.encode(), file=file, env=env)
    assert parsed.profile is not None, parsed.problems
    around = Surroundings(
        catalog=CATALOG,
        engines=dict.fromkeys(needed_engines(parsed.profile.config), StandIn()),
        host="127.0.0.9",
        cwd="/run",
        ports=PortChooser({}, (), (32768, 60999)),
    )
    return resolve_profile(parsed.profile, around)


def specs(text: str, **more: Any) -> dict[str, Any]:
    resolved = meant(text, **more)
    assert not resolved.problems, resolved.problems
    return dict(resolved.file.specs)


# --- replicas -----------------------------------------------------------------------------------


def test_replicas_are_instances_with_ports_of_their_own() -> None:
    found = specs("instances: {a: {model: tiny, replicas: 3}, b: {model: tiny, needs: [a]}}")
    assert list(found) == ["a-1", "a-2", "a-3", "b"]
    assert {one.replica_of for one in found.values()} == {"a", ""}
    assert len({one.endpoint.port for one in found.values()}) == 4
    assert found["b"].needs == ("a-1", "a-2", "a-3")


def test_one_more_replica_changes_none_of_the_others() -> None:
    two, three = (specs(f"instances: {{a: {{model: tiny, replicas: {n}}}}}") for n in (2, 3))
    for name, spec in two.items():
        assert not process_drift(spec, three[name])
        assert not live_drift(spec, three[name])


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a: {model: tiny, replicas: 2, port: 80}", "1:49", "cannot all listen on port 80"),
        ("a: {model: tiny, replicas: 0}", "1:40", "from 1 to 64, got 0"),
        ("a: {model: tiny, replicas: 65}", "1:40", "from 1 to 64, got 65"),
        ("a: {model: tiny, replicas: two}", "1:40", "from 1 to 64"),
        ("a: {model: tiny, replicas: 2}, a-2: {model: tiny}", "1:44", "is also a replica of 'a'"),
        ("a: {model: tiny, replicas: 2, needs: [a-1]}", "1:51", "needs itself"),
        (
            "a: {model: tiny, replicas: 2}, b: {model: tiny, needs: [a-3]}",
            "1:69",
            "unknown instance",
        ),
        ("o: {engine: ollama, replicas: 2}", "1:33", "unknown key 'replicas'"),
        (f"{'a' * 62}: {{model: tiny, replicas: 2}}", "1:101", "cannot name a replica"),
    ],
)
def test_replicas_that_cannot_be_are_refused_at_their_place(
    text: str, where: str, message: str
) -> None:
    found = said(f"instances: {{{text}}}")
    assert [one for one in found if message in one[1]], found
    assert where in [place for place, _ in found]


def test_replicas_mean_the_same_in_every_file() -> None:
    one = meant("instances: {a: {model: tiny, replicas: 2}}", file="/1.yaml").file
    same = meant("instances: {a: {model: tiny, replicas: 2}}", file="/2.yaml").file
    more = meant("instances: {a: {model: tiny, replicas: 3}}", file="/3.yaml").file
    plain = meant("instances: {a: {model: tiny}}", file="/4.yaml").file
    assert not unite([one, same])[1]
    for other in (more, plain):
        for pair in ([one, other], [other, one]):
            conflicts = unite(pair)[1]
            assert [c.where for c in conflicts] == [("instances", "a")]
            assert conflicts[0].message == f"instance 'a' is declared differently in {pair[0].file}"


# --- the gateway --------------------------------------------------------------------------------

WHOLE = """\
gateway:
  port: 8080
  cloud: {sky: {url: "https://sky.example/api/v1/", key: "${env:KEY}", model: big}}
  tokens: {ci: {token: "${env:T}", priority: low}, n: {token: "${env:NUMBER}"}}
  fallback: {warn: 50%}
  routes:
    chat: {to: [a, {instance: b, weight: 0}], fallback: [b, sky], on: [failing, down]}
    plain: [a, b]
    own: {to: [b], warn: 10%}
instances: {a: {model: tiny, replicas: 2}, b: {model: tiny}}
"""


def test_a_gateway_means_what_it_says() -> None:
    gateway = specs(WHOLE)[GATEWAY].gateway
    chat, plain, own = gateway.routes
    assert [(aim.name, aim.weight) for aim in chat.to] == [("a", 1), ("b", 0)]
    assert [aim.weight for aim in plain.to] == [None, None]
    assert (chat.on, plain.on) == (("down", "failing"), TRIGGERS)
    assert (chat.warn, own.warn) == (50.0, 10.0)
    assert gateway.clouds[0].key == "sk-1"
    assert [one.token for one in gateway.tokens] == ["secret", "007"]


def test_the_table_has_clouds_apart_and_nobody_without_weight() -> None:
    found = table(specs(WHOLE), {}, Plan())
    names = {row["name"]: row for row in found["names"]}
    assert "sky" not in names
    assert [aim["target"] for aim in names["chat"]["aims"]] == ["a-1", "a-2"]
    assert {aim["side"] for aim in names["chat"]["aims"]} == {"a"}
    assert [aim["target"] for aim in names["a"]["aims"]] == ["a-1", "a-2"]
    sky = found["targets"][-1]
    assert (sky["name"], sky["host"], sky["port"]) == ("cloud:sky", "sky.example", 443)
    assert sky["prefix"] == "/api/v1"


def test_nothing_secret_is_shown_of_a_change() -> None:
    before = specs(WHOLE)[GATEWAY]
    after = specs(WHOLE, env={**ENV, "KEY": "sk-other", "T": "another"})[GATEWAY]
    shown = [str(one) for one in live_drift(before, after)]
    assert len(shown) == 2
    assert all("(changed)" in one for one in shown)
    assert not [word for word in ("sk-1", "sk-other", "secret", "another") if word in str(shown)]
    whole = str(live_drift(replace(before, gateway=None), after))
    assert "sk-other" not in whole
    assert "sk-other" not in repr(after.gateway)


def test_every_part_of_a_gateway_has_words_for_a_change() -> None:
    have = GatewaySpec()
    others: dict[str, Any] = {
        "routes": (RouteSpec("r", (RouteAim("a"),)),),
        "waiting": 9,
        "patience": 9.0,
        "log": "errors",
        "content": True,
        "clouds": (CloudSpec("s", "https://x"),),
        "tokens": (TokenSpec("t", "secret"),),
        "hosts": ("x",),
        "origins": ("https://x",),
    }
    assert others.keys() == set(GatewaySpec.__struct_fields__)
    for name, value in others.items():
        other = replace(have, **{name: value})
        assert changes(have, other), name
        assert changes(other, have), name


BAD = {
    "cloud: {sky: {url: 'https://x', key: sk-1}}": "the key of cloud 'sky' is written into",
    "cloud: {sky: {url: 'https://x', key: '${env:NO:-sk-1}'}}": "is written into the profile",
    "cloud: {sky: {url: 'https://x', key: '${env:NO}'}}": "variable NO is not set",
    "cloud: {sky: {url: 'https://x', key: '${env:BAD}'}}": "has characters that none can have",
    "cloud: {sky: {url: 'ftp://x'}}": "expected a URL that begins with https://",
    "cloud: {sky: {url: 'https://me:pw@x'}}": "without user, query or fragment",
    "cloud: {sky: {}}": "has no 'url'",
    "cloud: {sky: {url: 'https://x', kei: k}}": "unknown key 'kei'",
    "cloud: {a: {url: 'https://x'}}": "cloud 'a' is called like an instance",
    "cloud: {tiny: {url: 'https://x'}}": "cloud 'tiny' is called like a model",
    "cloud: {a/b: {url: 'https://x'}}": "cannot name a cloud",
    "cloud: {s: {url: 'https://x'}}, routes: {c: {to: [s]}}": "route 'c' leads to 's'",
    "routes: {c: {to: [a], fallback: [none]}}": "leads to 'none', which nothing is called",
    "routes: {c: {to: [a], fallback: [d]}, d: {to: [a], fallback: [c]}}": "in a circle: 'c'",
    "routes: {c: [a, a]}": "leads to 'a' twice",
    "routes: {c: {to: [{instance: a, weight: 0}]}}": "every weight is 0",
    "routes: {c: {to: [{instance: a, weight: -1}]}}": "expected a whole number from 0",
    "routes: {c: {to: [{instance: a, wait: 1}]}}": "unknown key 'wait'",
    "routes: {c: {to: [a], on: [busy]}}": "unknown reason to fall back 'busy'",
    "routes: {c: {to: [a], slo: 1s}}": "unknown key 'slo'",
    "tokens: {x: {token: '${env:T}'}, y: {token: '${env:T}'}}": "also that of 'x'",
    "token: '${env:T}', tokens: {x: {token: '${env:T}'}}": "the gateway's own",
    "tokens: {x: {token: t, priority: urgent}}": "unknown priority 'urgent'",
    "fallback: {warn: 0%}": "expected a percentage",
}


@pytest.mark.parametrize("text", BAD)
def test_a_gateway_that_cannot_be_meant_so_is_refused(text: str) -> None:
    found = said(f"gateway: {{port: 8080, {text}}}\ninstances: {{a: {{model: tiny}}}}")
    assert [one for _, one in found if BAD[text] in one], found
    assert not [one for _, one in found if "sk-" in one or "secret" in one], found


def test_a_key_that_leaves_the_machine_unprotected_is_warned_of() -> None:
    text = "gateway: {port: 1, cloud: {s: {url: 'http://%s/v1', key: '${env:KEY}'}}}\ninstances: {}"
    assert "goes over the network" in meant(text % "10.0.0.1").warnings[0].message
    assert not meant(text % "127.0.0.1:81").warnings


def test_two_gateways_are_told_at_their_place() -> None:
    one = meant("gateway: {port: 1}\ninstances: {}", file="/1.yaml").file
    two = meant("gateway: {port: 2}\ninstances: {}", file="/2.yaml").file
    conflict = unite([one, two])[1][0]
    assert conflict.where == ("gateway",)
    assert conflict.message == "the gateway is declared differently in /1.yaml"
    assert not unite([one, replace(one, file="/3.yaml")])[1]
