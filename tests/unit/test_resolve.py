"""From a profile to specs, with a stand-in engine: what comes of it, and who is to blame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from orchestrator.core.catalog import Catalog, CatalogError, Model
from orchestrator.core.engine import Issue, Launch, LaunchRequest
from orchestrator.core.parse import parse_profile
from orchestrator.core.port import PortChooser
from orchestrator.core.resolve import (
    Resolved,
    Surroundings,
    needed_engines,
    resolve_profile,
)
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.spec import (
    Built,
    Command,
    Copied,
    Endpoint,
    FileIdentity,
    Imported,
    InputFile,
    InstanceSpec,
    ModelOrigin,
    ModelSet,
    ModelSpec,
    Pulled,
)
from orchestrator.core.union import Conflict, unite
from orchestrator.errors import InputError
from tests.unit.test_plan import A, B, spec

IDENTITY = FileIdentity(1, 2, 3)
BINARY = InputFile("binary", "/bin/llama-server", IDENTITY)


def model(name: str, **more: object) -> Model:
    path = f"/models/{name}.gguf"
    made = Model(name, "folder", path, 1, (path,), IDENTITY)
    return replace(made, **more)  # type: ignore[arg-type]


@dataclass
class StandIn:
    """An engine that takes everything, and objects where it is told to."""

    objects: Callable[[LaunchRequest], tuple[Issue, ...]] = lambda _request: ()
    asked: list[LaunchRequest] = field(default_factory=list[LaunchRequest])
    name: str = "llama-server"
    binary: InputFile = BINARY

    def launch(self, request: LaunchRequest) -> Launch:
        self.asked.append(request)
        issues = self.objects(request)
        if any(not issue.warning for issue in issues):
            return Launch(None, None, issues)
        argv = ("llama-server", "-m", request.model_path or "", "--port", str(request.port))
        command = Command(argv, dict(request.env), request.cwd)
        return Launch(command, Endpoint(request.host, request.port), issues, (BINARY,))


CATALOG = Catalog((model("tiny"), model("large", mmproj="/models/eyes.gguf")))


def resolved(
    text: str,
    engine: StandIn | InputError | None = None,
    *,
    catalog: Catalog = CATALOG,
    held: dict[str, int] | None = None,
) -> Resolved:
    parsed = parse_profile(text.encode(), file="/profiles/p.yaml", env={})
    assert parsed.profile is not None, parsed.problems
    known = engine or StandIn()
    around = Surroundings(
        catalog=catalog,
        engines=dict.fromkeys(needed_engines(parsed.profile.config), known),
        host="127.0.0.9",
        cwd="/run",
        ports=PortChooser(held or {}, (), (32768, 60999)),
    )
    return resolve_profile(parsed.profile, around)


def found(text: str, engine: StandIn | InputError | None = None) -> list[tuple[str, str]]:
    """`line:column` and message of everything wrong."""
    problems = resolved(text, engine).problems
    return [(f"{p.place.line}:{p.place.column}", p.message) for p in problems]


def test_a_model_below_the_home_of_whoever_asks() -> None:
    text = "instances: {a: {model: ~/tiny.gguf, mmproj: ~/eyes.gguf}}"
    at_home = replace(CATALOG, home="/models")
    assert not resolved(text, catalog=at_home).problems
    assert "unknown model '~/tiny.gguf'" in found(text)[0][1]


# --- what is right --------------------------------------------------------------------------------

FULL = """\
name: mine
defaults:
  llama-server: {host: 0.0.0.0, flags: {mlock: true}, env: {A: "1", B: "1"}, args: [--x]}
instances:
  a:
    model: tiny
    port: 8001
    description: first
    flags: {ctx-size: 512}
    env: {B: "2"}
    needs: [b]
    stop: {grace: 3s}
  b: {model: large, host: 127.0.0.1, args: []}
"""


def test_all_that_a_profile_says_reaches_the_engine_or_the_spec() -> None:
    engine = StandIn()
    outcome = resolved(FULL, engine)
    assert (outcome.problems, outcome.warnings) == ((), ())
    first, second = engine.asked
    assert (first.host, first.port, first.model_path) == ("0.0.0.0", 8001, "/models/tiny.gguf")
    assert (second.host, second.mmproj_path) == ("127.0.0.1", "/models/eyes.gguf")
    assert [(dict(layer.flags), layer.path) for layer in first.layers] == [
        ({"mlock": True}, ("defaults", "llama-server", "flags")),
        ({"ctx-size": 512}, ("instances", "a", "flags")),
    ]
    assert (first.env, first.args, second.args) == ({"A": "1", "B": "2"}, ("--x",), ())
    assert (first.folder, first.cwd) == ("/profiles", "/run")

    file = outcome.file
    assert (file.file, file.name, list(file.specs)) == ("/profiles/p.yaml", "mine", ["a", "b"])
    a, b = file.specs.values()
    assert (a.name, a.profiles, a.model, a.description) == ("a", ("mine",), "tiny", "first")
    assert a.inputs == (InputFile("model", "/models/tiny.gguf", IDENTITY), BINARY)
    assert (a.needs, a.stop.grace, a.auto_port, b.auto_port) == (("b",), 3.0, False, True)


def test_the_same_profile_is_the_same_specs_wherever_it_lies() -> None:
    assert resolved(FULL).file == resolved(FULL).file


def test_automatic_ports_are_those_held_and_nobody_elses() -> None:
    text = "instances: {a: {model: tiny}, b: {model: tiny}, c: {model: tiny, port: 18007}}"
    specs = resolved(text, held={"b": 18005}).file.specs
    ports = {name: one.endpoint.port for name, one in specs.items()}
    assert ports["b"] == 18005
    assert len(set(ports.values())) == 3


def test_what_is_started_first_has_two_ports_that_nobody_else_has() -> None:
    text = "instances:\n  b: {model: tiny}\n  a: {model: tiny, update: {strategy: start-first}}\n"
    specs = resolved(text, held={"a": 18005, "a~next": 18005, "b": 18001}).file.specs
    one = specs["a"]
    assert one.alternate is not None
    assert one.endpoint.port == 18005
    assert one.alternate.endpoint.port not in (18005, 18001)
    # The same in all but the port.
    asked = str(one.alternate.endpoint.port)
    words = [asked if word == "18005" else word for word in one.command.argv]
    assert one.alternate.command == replace(one.command, argv=tuple(words))
    assert specs["b"].alternate is None


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (
            "instances:\n  a: {model: tiny, port: 1, update: {strategy: start-first}}\n",
            "2:48",
            "start-first needs `port: auto`: the next process has another port",
        ),
        (
            "instances:\n  a: {engine: ollama, update: {strategy: start-first}}\n",
            "2:42",
            "start-first is for llama-server: two Ollama servers would share one store",
        ),
        (
            "defaults: {llama-server: {update: {strategy: start-first}}}\n"
            "instances:\n  a: {model: tiny}\n  b: {model: tiny, port: 1}\n",
            "1:46",
            "start-first needs `port: auto` for 'b': the next process has another port",
        ),
    ],
)
def test_what_cannot_be_started_first_is_refused(text: str, place: str, message: str) -> None:
    assert (place, message) in found(text, StandIn())


def test_which_engines_are_needed() -> None:
    text = "instances: {a: {model: x}, b: {model: x, binary: embedded}, c: {model: x}}"
    profile = parse_profile(text.encode(), file="p", env={}).profile
    assert profile is not None
    assert needed_engines(profile.config) == {("llama-server", None), ("llama-server", "embedded")}


# --- what is wrong --------------------------------------------------------------------------------


def test_an_unknown_model_is_pointed_at_with_what_is_near() -> None:
    outcome = resolved("instances:\n  a:\n    model: tini\n")
    (problem,) = outcome.problems
    assert (problem.place.line, problem.place.column) == (3, 12)
    assert problem.message == "unknown model 'tini'"
    assert problem.hint == "did you mean 'tiny'?"
    assert outcome.file.specs == {}


def test_an_ambiguous_model_names_its_candidates() -> None:
    other = model("tiny", path="/other/tiny.gguf", parts=("/other/tiny.gguf",))
    catalog = Catalog((*CATALOG.models, other))
    (problem,) = resolved("instances: {a: {model: tiny}}", catalog=catalog).problems
    assert problem.message == "model 'tiny' is ambiguous"
    assert "/models/tiny.gguf" in problem.hint
    assert "/other/tiny.gguf" in problem.hint


@pytest.mark.parametrize("ref", ["torn", "torn.gguf", "../models/torn.gguf"])
def test_a_model_that_cannot_be_read_is_not_merely_unknown(ref: str) -> None:
    catalog = Catalog((), (CatalogError("/models/torn.gguf", "it ends too soon"),))
    (problem,) = resolved(f"instances: {{a: {{model: {ref}}}}}", catalog=catalog).problems
    assert problem.message == f"model {ref!r} cannot be read: /models/torn.gguf: it ends too soon"


def test_a_missing_projector_is_pointed_at() -> None:
    text = "instances:\n  a:\n    model: tiny\n    mmproj: nowhere.gguf\n"
    assert found(text) == [("4:13", "unknown model 'nowhere.gguf'")]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("instances:\n  a:\n    model: tiny\n    binary: /nowhere\n", "4:13"),
        ("instances:\n  a:\n    engine: llama-server\n    model: tiny\n", "3:13"),
        ("instances:\n  a:\n    model: tiny\n", "2:3"),
    ],
)
def test_an_engine_that_is_not_there_is_blamed_on_who_asked_for_it(text: str, place: str) -> None:
    missing = InputError("/nowhere does not exist", hint="install it")
    assert found(text, missing) == [(place, "/nowhere does not exist")]


def test_what_the_engine_objects_to_is_where_the_engine_says() -> None:
    text = (
        "defaults:\n  llama-server:\n    flags:\n      bad: 1\n"
        "instances:\n  a:\n    model: tiny\n    args: [--x, --help]\n"
        "  b: {model: tiny}\n"
    )
    engine = StandIn(
        lambda request: (
            (
                Issue(("defaults", "llama-server", "flags", "bad"), "no such flag"),
                Issue((*request.args_path, 1), "prints and exits", key=False),
            )
            if request.args
            else (Issue(("defaults", "llama-server", "flags", "bad"), "no such flag"),)
        )
    )
    assert found(text, engine) == [("4:7", "no such flag"), ("8:17", "prints and exits")], (
        "what two instances share is said once"
    )


def test_a_doubt_is_a_warning_and_no_obstacle() -> None:
    doubt = Issue(("instances", "a", "flags", "x"), "not checked", warning=True)
    outcome = resolved("instances: {a: {model: tiny, flags: {x: 1}}}", StandIn(lambda _: (doubt,)))
    assert outcome.problems == ()
    assert [w.message for w in outcome.warnings] == ["not checked"]
    assert list(outcome.file.specs) == ["a"]


def test_everything_that_is_wrong_comes_at_once_and_the_rest_is_resolved() -> None:
    text = (
        "instances:\n"
        "  a: {model: nowhere, flags: {bad: 1}}\n"
        "  b: {model: elsewhere}\n"
        "  c: {model: tiny}\n"
    )
    engine = StandIn(
        lambda request: tuple(
            Issue((*layer.path, flag), f"no such flag {flag}")
            for layer in request.layers
            for flag in layer.flags
        )
    )
    messages = [message for _, message in found(text, engine)]
    assert messages == ["unknown model 'nowhere'", "no such flag bad", "unknown model 'elsewhere'"]
    assert list(resolved(text, engine).file.specs) == ["c"]


# --- several files --------------------------------------------------------------------------------


def file(name: str, *specs: InstanceSpec) -> ResolvedFile:
    mine = {one.name: replace(one, profiles=(name,)) for one in specs}
    return ResolvedFile(f"/{name}.yaml", name, "r", mine)


def test_the_union_keeps_the_order_and_names_every_profile_once() -> None:
    desired, conflicts = unite([file("p", B, A), file("q", A), file("q", A)])
    assert conflicts == []
    assert list(desired) == ["b", "a"]
    assert (desired["a"].profiles, desired["b"].profiles) == (("p", "q"), ("p",))


@pytest.mark.parametrize("change", [{"ctx": 1}, {"description": "x"}, {"needs": ("b",)}])
def test_one_name_must_mean_one_thing(change: dict[str, object]) -> None:
    other = spec("a", **change)  # type: ignore[arg-type]
    desired, (conflict,) = unite([file("p", A), file("q", other)])
    assert desired["a"] == replace(A, profiles=("p",)), "the first counts"
    assert conflict == Conflict(
        "/q.yaml",
        "/p.yaml",
        "a",
        "instance 'a' is declared differently in /p.yaml",
        "give it another name, or declare it alike in both files",
    )


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("127.0.0.1", "::", True),
    ],
)
def test_one_port_is_for_one_instance(one: str, other: str, conflict: bool) -> None:
    a = replace(A, endpoint=Endpoint(one, 8001))
    b = replace(B, endpoint=Endpoint(other, 8001))
    for files in ([file("p", a), file("q", b)], [file("p", a, b)]):
        _, conflicts = unite(files)
        assert [c.message for c in conflicts] == (
            ["port 8001 of 'b' is also that of 'a'"] if conflict else []
        )
        assert [c.hint for c in conflicts] == ["it is declared in /p.yaml"] * conflict


def test_a_third_file_conflicts_with_each() -> None:
    b = replace(B, endpoint=A.endpoint)
    c = replace(spec("c"), endpoint=A.endpoint)
    _, conflicts = unite([file("p", A), file("q", b), file("r", c)])
    assert [(c.file, c.other) for c in conflicts] == [
        ("/q.yaml", "/p.yaml"),
        ("/r.yaml", "/p.yaml"),
        ("/r.yaml", "/q.yaml"),
    ]


# --- one folder of models -------------------------------------------------------------------------

GGUF = Imported((InputFile("model", "/models/x.gguf", IDENTITY),))


def ollama(name: str, *models: ModelSpec, store: str = "/store", **more: str) -> InstanceSpec:
    made = spec(name, port=9000 + ord(name), engine="ollama", holds=ModelSet(models, store))
    return replace(made, **more)  # type: ignore[arg-type]


def clash(
    one: ModelOrigin, other: ModelOrigin, names: tuple[str, ...] = ("x:latest", "x:latest")
) -> list[Conflict]:
    a, b = (ModelSpec(name, origin) for name, origin in zip(names, (one, other), strict=True))
    ours = [file("p", ollama("a", a), ollama("b", PLAIN, b))]
    _, conflicts = unite(ours)
    _, apart = unite([file("p", ollama("a", a)), file("q", ollama("b", PLAIN, b))])
    assert [c.message for c in conflicts] == [c.message for c in apart]
    assert [(c.file, c.other) for c in apart] == [("/q.yaml", "/p.yaml")] * len(apart)
    return conflicts


PLAIN = ModelSpec("plain:latest")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Pulled(), Pulled(insecure=True)),
        (Pulled(), GGUF),
        (Built("/m", "FROM a"), Built("/m", "FROM b")),
        (Built("/m/f", "FROM ./a.gguf"), Built("/n/f", "FROM ./a.gguf")),
        (GGUF, Imported((InputFile("model", "/models/y.gguf", IDENTITY),))),
        (Copied("a:latest"), Copied("b:latest")),
        (Copied("a:latest"), Pulled()),
    ],
)
def test_one_model_of_one_folder_is_made_in_one_way(one: ModelOrigin, other: ModelOrigin) -> None:
    """Else each of the two instances makes it anew, in turns, for ever."""
    (conflict,) = clash(one, other, ("x:latest", "X:latest"))
    assert conflict.instance == "b"
    assert conflict.path == ("instances", "b", "models", 1)
    assert conflict.message.startswith(
        "model 'X:latest' of 'b' is made otherwise than that of 'a', with the same folder /store: "
    )
    assert conflict.hint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Pulled(), Pulled()),
        (Built("/m/f", "FROM a"), Built("/n/g", "FROM a")),
        (Built("/m/f", "FROM ../a.gguf"), Built("/m/g", "FROM ../a.gguf")),
        (Built("/m/f", "what is no Modelfile"), Built("/m/f", "what is no Modelfile")),
        (GGUF, Imported((InputFile("model", "/models/x.gguf", None),))),
        (Copied("a:latest"), Copied("A:latest")),
    ],
)
def test_what_is_made_alike_may_be_declared_twice(one: ModelOrigin, other: ModelOrigin) -> None:
    assert clash(one, other) == []


def test_the_words_of_a_clash_tell_both_ways() -> None:
    (conflict,) = clash(Pulled(), GGUF)
    assert "made from /models/x.gguf, there pulled" in conflict.message
    (conflict,) = clash(Built("/m", "FROM a"), Built("/m", "FROM b"))
    assert "built by /m, there too, but it said something else" in conflict.message


def test_how_long_a_model_stays_in_memory_may_differ() -> None:
    one = ollama("a", ModelSpec("x:latest", GGUF, preload=True, keep_alive=-1.0))
    other = ollama("b", ModelSpec("x:latest", GGUF, keep_alive=60.0))
    assert unite([file("p", one, other)])[1] == []


@pytest.mark.parametrize(
    "more",
    [
        {"store": "/elsewhere"},
        # Where its models lie is not known.
        {"store": ""},
        {"attach": "only"},
    ],
)
def test_in_folders_of_their_own_models_may_differ(more: dict[str, str]) -> None:
    one, other = ollama("a", ModelSpec("x:latest")), ollama("b", ModelSpec("x:latest", GGUF))
    changed = ollama("b", ModelSpec("x:latest", GGUF), **more)
    assert unite([file("p", one, other)])[1]
    for pair in ((one, changed), (changed, one)):
        assert unite([file("p", *pair)])[1] == []


def test_of_three_that_share_a_folder_each_that_differs_is_named_once() -> None:
    pulled, made = ModelSpec("x:latest"), ModelSpec("x:latest", GGUF)
    files = [file("p", ollama("a", pulled)), file("q", ollama("b", made), ollama("c", made))]
    _, conflicts = unite(files)
    assert [(c.instance, c.file, c.other) for c in conflicts] == [
        ("b", "/q.yaml", "/p.yaml"),
        ("c", "/q.yaml", "/p.yaml"),
    ]
