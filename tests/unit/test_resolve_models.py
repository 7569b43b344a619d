"""The `models:` of an Ollama instance: from a profile to specs, and every way to be wrong."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from orchestrator.core.catalog import Catalog, CatalogError
from orchestrator.core.modelfile import ModelfileOnDisk
from orchestrator.core.parse import parse_profile
from orchestrator.core.port import PortChooser
from orchestrator.core.resolve import (
    Resolved,
    Surroundings,
    digest_of,
    needed_engines,
    resolve_profile,
)
from orchestrator.core.spec import (
    Built,
    Command,
    Copied,
    Endpoint,
    Imported,
    InputFile,
    ModelSet,
    ModelSpec,
    Pulled,
)
from orchestrator.core.tag import BadTagError, canonical
from orchestrator.engines.ollama import Ollama
from orchestrator.errors import InputError
from tests.unit.test_ollama_engine import BINARY, LISTED
from tests.unit.test_resolve import IDENTITY, model

BLOB = "/store/blobs/sha256-1"
CATALOG = Catalog(
    (
        model("tiny"),
        model("large", mmproj="/models/eyes.gguf"),
        model("halves", parts=("/models/a-1.gguf", "/models/a-2.gguf")),
        model("twice"),
        model("twice", path="/other/twice.gguf", parts=("/other/twice.gguf",)),
        model("had:latest", source="ollama", path=BLOB, parts=(BLOB,)),
        model("had:copy", source="ollama", path=BLOB, parts=(BLOB,)),
        model("odd:latest", source="ollama", path="/store/odd", parts=(), unfit="is stored so"),
    ),
    (
        CatalogError("/models/torn.gguf", "is cut off"),
        CatalogError("/models/eyes.gguf", "/models/eyes.gguf is a projector", "name the model"),
    ),
)


def disk(**texts: str | InputError) -> dict[str, ModelfileOnDisk]:
    """Modelfiles by name, all in one folder, in which `tiny.gguf` is the only other file."""
    return {
        f"./{name}": ModelfileOnDisk(f"/profiles/{name}", text, frozenset({"./tiny.gguf"}))
        for name, text in texts.items()
    }


def resolved(
    models: str,
    *,
    settings: str = "{}",
    more: str = "",
    files: Mapping[str, ModelfileOnDisk] | None = None,
    engine: Ollama | InputError | None = None,
) -> Resolved:
    """Of a profile whose line 5 and on are these models."""
    text = (
        f"instances:\n  o: {{engine: ollama, port: 11434, settings: {settings}, {more}\n"
        f"    models: [\n\n{models}\n]}}\n"
    )
    parsed = parse_profile(text.encode(), file="/profiles/p.yaml", env={})
    assert parsed.profile is not None, parsed.problems
    known = engine or Ollama(BINARY, ("/bin/ollama",), LISTED, home="/home/me")
    around = Surroundings(
        catalog=CATALOG,
        engines=dict.fromkeys(needed_engines(parsed.profile.config), known),
        host="127.0.0.1",
        cwd="/run",
        ports=PortChooser({}, (), (32768, 60999)),
        store="/store",
        modelfiles=files or {},
    )
    return resolve_profile(parsed.profile, around)


def specs(models: str, **more: object) -> tuple[ModelSpec, ...]:
    outcome = resolved(models, **more)  # type: ignore[arg-type]
    assert (outcome.problems, outcome.warnings) == ((), ())
    holds = outcome.file.specs["o"].holds
    assert holds is not None
    return holds.models


def wrong(models: str, **more: object) -> tuple[str, str, str]:
    """Where the only problem is, what it says and its hint."""
    outcome = resolved(models, **more)  # type: ignore[arg-type]
    (problem,) = outcome.problems
    assert outcome.file.specs == {}
    assert problem.path[:3] == ("instances", "o", "models")
    return f"{problem.place.line}:{problem.place.column}", problem.message, problem.hint


def doubtful(models: str, **more: object) -> tuple[str, str]:
    outcome = resolved(models, **more)  # type: ignore[arg-type]
    assert outcome.problems == ()
    (warning,) = outcome.warnings
    assert "o" in outcome.file.specs
    return warning.message, warning.hint


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("tiny", "tiny:latest"),
        ("llama3.1:8b", "llama3.1:8b"),
        ("me/Tiny", "me/Tiny:latest"),
        ("library/tiny", "tiny:latest"),
        ("registry.ollama.ai/library/tiny:q4", "tiny:q4"),
        ("registry.ollama.ai/me/tiny", "me/tiny:latest"),
        ("hf.co/user/repo-GGUF:Q4_K_M", "hf.co/user/repo-GGUF:Q4_K_M"),
        ("127.0.0.1:5000/lib/tiny", "127.0.0.1:5000/lib/tiny:latest"),
        ("127.0.0.1:5000/lib/tiny:v1", "127.0.0.1:5000/lib/tiny:v1"),
        ("host/library/tiny", "host/library/tiny:latest"),
    ],
)
def test_names_are_as_ollama_shows_them(written: str, name: str) -> None:
    assert canonical(written) == name
    assert canonical(name) == name


@pytest.mark.parametrize(
    "written",
    [
        *("", "a b", "a:", ":a", "a/b/c/d", "/a", "a/", "a//b", ".a", "-a", "a:b:c", "a@sha256:1"),
        *("a.b/c", "é", "x" * 81, "http://h/a/b", "[::1]:5/l/x", "127.0.0.1:5000/tiny"),
    ],
)
def test_what_is_no_name(written: str) -> None:
    with pytest.raises(BadTagError) as caught:
        canonical(written)
    assert caught.value.hint


# --- what is right --------------------------------------------------------------------------------


def test_pulled_under_its_own_name() -> None:
    assert specs(
        "tiny, {name: a}, {pull: h:1/l/x, insecure: true}, {name: b, pull: 'b:latest'}"
    ) == (
        ModelSpec("tiny:latest", Pulled()),
        ModelSpec("a:latest", Pulled()),
        ModelSpec("h:1/l/x:latest", Pulled(insecure=True)),
        ModelSpec("b:latest", Pulled()),
    )


def test_every_origin() -> None:
    files = disk(m="FROM tiny\nSYSTEM x")
    found = specs(
        "tiny, {name: m, modelfile: ./m}, {name: g, gguf: tiny}, {name: l, gguf: large},"
        " {name: c, alias: m}",
        files=files,
    )
    assert [one.origin for one in found] == [
        Pulled(),
        Built("/profiles/m", "FROM tiny\nSYSTEM x"),
        Imported((InputFile("model", "/models/tiny.gguf", IDENTITY),)),
        Imported(
            (
                InputFile("model", "/models/large.gguf", IDENTITY),
                InputFile("mmproj", "/models/eyes.gguf", None),
            )
        ),
        Copied("m:latest"),
    ]


def test_preloaded_for_ever_unless_it_says_how_long() -> None:
    found = specs(
        "{name: a, preload: true}, {name: b, preload: true, keep_alive: 5m},"
        " {name: c, keep_alive: 0}"
    )
    assert [(one.preload, one.keep_alive) for one in found] == [
        (True, -1.0),
        (True, 300.0),
        (False, 0.0),
    ]


def test_all_of_the_set_reaches_the_spec() -> None:
    outcome = resolved(
        "tiny", settings="{max_loaded_models: 2}", more="prune: true, verify: {interval: 1h},"
    )
    spec = outcome.file.specs["o"]
    assert spec.holds == ModelSet((ModelSpec("tiny:latest"),), "/store", True, 3600, 2)
    assert (spec.attach, spec.engine, spec.endpoint) == (
        "auto",
        "ollama",
        Endpoint("127.0.0.1", 11434),
    )
    assert spec.readiness.path == "/api/version"
    assert spec.inputs == (BINARY,)


def test_what_a_profile_reads_is_kept_with_its_digest() -> None:
    files = disk(m="FROM tiny", gone=InputError("/profiles/gone does not exist"))
    outcome = resolved("{name: m, modelfile: ./m}", files=files)
    assert outcome.file.reads == {
        "/profiles/m": digest_of("FROM tiny"),
        "/profiles/gone": "",
    }


def test_where_only_anothers_server_runs_no_binary_is_needed() -> None:
    none = InputError("no ollama was found")
    outcome = resolved("tiny", more="attach: only,", engine=none)
    assert outcome.problems == ()
    assert outcome.file.specs["o"].command == Command((), {}, "/run")
    (problem,) = resolved("tiny", engine=none).problems
    assert problem.message == "no ollama was found"


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "place", "message"),
    [
        ("{preload: true}", "5:1", "a model needs a name"),
        ("{gguf: tiny}", "5:1", "a model with 'gguf' needs a name"),
        ("{alias: a}", "5:1", "a model with 'alias' needs a name"),
        ("{name: a b}", "5:8", "'a b' cannot be the name of a model"),
        ("a, {pull: 'http://h/l/x'}", "5:11", "'http://h/l/x' begins with a scheme"),
        ("{name: a, alias: '-'}", "5:18", "'-' cannot be the name of a model"),
        ("{name: a, gguf: tiny, alias: b}", "5:23", "one origin, not 'gguf' and 'alias'"),
        ("{name: a, pull: b}", "5:8", "what is pulled from 'b:latest' is called so"),
        ("{name: a, gguf: tiny, insecure: true}", "5:23", "'insecure' is about pulling"),
        ("tiny,\n{name: 'tiny:latest'}", "6:8", "model 'tiny:latest' is there twice"),
        ("tiny,\n{pull: Tiny}", "6:8", "model 'Tiny:latest' is there twice"),
        ("{name: a, preload: true, keep_alive: 0}", "5:38", "cannot leave at once"),
        ("{name: a, gguf: large-x}", "5:17", "unknown model 'large-x'"),
        ("{name: a, gguf: twice}", "5:17", "model 'twice' is ambiguous"),
        ("{name: a, gguf: torn}", "5:17", "cannot be read: /models/torn.gguf: is cut off"),
        ("{name: a, gguf: halves}", "5:17", "is split into 2 files, which Ollama cannot take"),
        ("{name: a, gguf: 'odd:latest'}", "5:17", "cannot be imported: it is stored so"),
        ("{name: a, alias: a}", "5:18", "'a:latest' would be made of itself"),
    ],
)
def test_each_is_refused_where_it_stands(models: str, place: str, message: str) -> None:
    at, said, hint = wrong(models)
    assert at == place
    assert message in said
    assert hint


def test_another_name_is_an_alias() -> None:
    hint = wrong("{name: a, pull: h/l/b}")[2]
    assert hint == "leave 'name' out, and add {name: a, alias: h/l/b}"


def test_a_name_that_is_near_is_offered() -> None:
    assert wrong("{name: a, gguf: larg}")[2] == "did you mean 'large'?"


def test_a_file_of_another_kind_is_called_what_it_is() -> None:
    _, message, hint = wrong("{name: a, gguf: eyes}")
    assert message == "model 'eyes' cannot be used: /models/eyes.gguf is a projector"
    assert hint == "name the model"


def test_all_that_is_wrong_comes_at_once() -> None:
    outcome = resolved("{gguf: x}, {name: a, alias: a}, tiny, tiny", settings="{x: 1}")
    assert len(outcome.problems) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM tiny\nPARAMETER x 1", "/profiles/m:2: unknown parameter 'x'"),
        ("SYSTEM x", "/profiles/m: there is no FROM line"),
        ("\nFROM ./gone.gguf", "/profiles/m:2: there is no /profiles/gone.gguf"),
        ("FROM tiny\nADAPTER ./a", "/profiles/m:2: Ollama takes no adapters"),
        (InputError("/profiles/m does not exist"), "/profiles/m does not exist"),
    ],
)
def test_an_error_in_a_modelfile_names_both_places(text: str | InputError, said: str) -> None:
    at, message, _ = wrong("{name: a, modelfile: ./m}", files=disk(m=text))
    assert at == "5:22"
    assert message.startswith(said)


def test_a_base_that_nobody_knows_is_pulled() -> None:
    assert specs("{name: a, modelfile: ./m}", files=disk(m="FROM never-seen:7b"))


def test_circles_are_found_whatever_they_are_made_of() -> None:
    files = disk(m="FROM b")
    outcome = resolved(
        "{name: a, modelfile: ./m}, {name: b, alias: c}, {name: c, alias: a}, {name: d, alias: b}",
        files=files,
    )
    assert [problem.message for problem in outcome.problems] == [
        f"'{name}:latest' would be made of itself" for name in "abc"
    ]


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ("{name: tiny, modelfile: ./m}", "FROM Tiny"),
        ("{name: tiny, alias: Tiny}", ""),
        ("{name: tiny, modelfile: ./m}, {name: x, alias: TINY}", "FROM X"),
    ],
)
def test_a_circle_by_other_letters_is_one(models: str, text: str) -> None:
    """To Ollama names are the same whatever their case."""
    outcome = resolved(models, files=disk(m=text))
    assert "'tiny:latest' would be made of itself" in [p.message for p in outcome.problems]


def test_names_are_looked_up_whatever_their_case() -> None:
    assert specs("Base, {name: a, alias: bASE}, {name: b, alias: HAD}")
    # That the declared one is wrong is said already.
    outcome = resolved("{name: Base, gguf: nowhere}, {name: a, alias: base}")
    assert (len(outcome.problems), outcome.warnings) == (1, ())


def test_an_alias_of_what_is_nowhere_is_doubtful() -> None:
    """It may be in a store that cannot be looked into from here."""
    message, hint = doubtful("llama3.1, {name: a, alias: llama3}")
    assert message == "'llama3:latest' is neither declared here nor in a store that was found"
    assert hint == "did you mean 'llama3.1:latest'?"
    assert specs("{name: a, alias: had}")


# --- memory ---------------------------------------------------------------------------------------


def preloaded(*names: str) -> str:
    return ", ".join(f"{{name: {name}, preload: true}}" for name in names)


def test_no_more_is_preloaded_than_fits() -> None:
    at, message, hint = wrong(preloaded("a", "b", "c"), settings="{max_loaded_models: 2}")
    assert at == "5:72"
    assert message == "3 different models are to be preloaded, but max_loaded_models is 2"
    assert hint == "raise max_loaded_models to 3, or preload fewer"
    assert specs(f"{preloaded('a', 'b')}, c", settings="{max_loaded_models: 2}")


@pytest.mark.parametrize(
    "models",
    [
        "{name: a, alias: b, preload: true}, {name: b, preload: true}",
        "{name: 'had:latest', preload: true}, {name: 'had:copy', preload: true}",
        "{name: a, gguf: tiny, preload: true}, {name: b, gguf: tiny, preload: true}",
        "{name: a, modelfile: ./m, preload: true}, {name: b, preload: true}",
        "{name: a, modelfile: ./n, preload: true}, {name: b, modelfile: ./n, preload: true}",
        "{name: a, alias: had, preload: true}, {name: 'had:copy', preload: true}",
        "{name: a, alias: HAD, preload: true}, {name: 'Had:copy', preload: true}",
        "{name: a, alias: B, preload: true}, {name: b, preload: true}",
        "{name: a, modelfile: ./o, preload: true}, {name: b, modelfile: ./p, preload: true}",
    ],
)
def test_models_of_the_same_weights_count_once(models: str) -> None:
    files = disk(m="FROM b", n="FROM ./tiny.gguf", o="FROM never", p="FROM Never")
    assert specs(models, settings="{max_loaded_models: 1}", files=files)


def test_where_ollama_decides_too_many_are_doubtful() -> None:
    message, hint = doubtful(preloaded("a", "b", "c", "d"))
    assert message == "4 different models are to be preloaded, and Ollama keeps 3 for each GPU " + (
        "unless told otherwise"
    )
    assert hint == "set max_loaded_models: 4 in `settings:`"
