"""Makes `docs/reference.md` from the code.

    python tests/reference.py            prints it
    python tests/reference.py --write    writes it

What can be asked of the code is: commands, options, profile keys, the shapes of JSON documents,
words such as phases and events. The meaning of each word stands in `reference_text`, and both
must name the same words.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from orchestrator import errors  # noqa: E402 - the script may be run from anywhere
from orchestrator.api.server import Doors  # noqa: E402
from orchestrator.cli.main import main as orchestrate  # noqa: E402
from orchestrator.control import model_making  # noqa: E402
from orchestrator.core.alerts import AlertKind  # noqa: E402
from orchestrator.core.event import EventType  # noqa: E402
from orchestrator.core.field_class import PROFILE_FIELDS  # noqa: E402
from orchestrator.core.liveness import Verdict  # noqa: E402
from orchestrator.core.plan import Verb  # noqa: E402
from orchestrator.core.provision import Do  # noqa: E402
from orchestrator.core.residency import Absence  # noqa: E402
from orchestrator.core.schema import profile_schema  # noqa: E402
from orchestrator.core.status import ModelState, Phase  # noqa: E402
from tests import reference_text as text  # noqa: E402
from tests.markdown import code, pairs, table  # noqa: E402
from tests.reference_commands import commands  # noqa: E402
from tests.reference_examples import documents  # noqa: E402
from tests.reference_text import same  # noqa: E402

PAGE = ROOT / "docs" / "reference.md"
COMPLETION = "ORCHESTRATE_COMPLETE"
OURS_ALONE = {"ORCHESTRATE_GATEWAY_TOKEN", "ORCHESTRATE_OWNER", COMPLETION}
"""Variables that are no setting: marks, and what the gateway is handed."""


def page() -> str:
    """The whole page."""
    parts = [text.HEAD, "## Commands\n", text.FILES_AND_NAMES, *commands(orchestrate)]
    parts += ["## Exit codes and errors\n", _exit_codes(), text.EXIT_NOTES, _mistake()]
    parts += ["## Profile\n", *_profile()]
    parts += ["## JSON\n", *documents()]
    parts += ["## Words\n", *_words()]
    parts += ["## Environment\n", _environment(), text.ENVIRONMENT_NOTES]
    parts += ["## Files in the state folder\n", _files()]
    parts += ["## Control API\n", *_routes()]
    return "\n".join(parts).rstrip() + "\n"


# --- exit codes, profile -----------------------------------------------------------------------


def _exit_codes() -> str:
    kinds = [errors.OrchestrateError, *errors.OrchestrateError.__subclasses__()]
    same({0, 130, *(kind.exit_code for kind in kinds)}, text.EXIT_CODES, "exit codes")
    return table(("code", "means"), [(str(code), what) for code, what in text.EXIT_CODES.items()])


def _mistake() -> str:
    from orchestrator.core.parse import parse_profile, render_problem

    written = b"instances:\n  coder:\n    model: tiny\n    prot: 8081\n"
    [problem] = parse_profile(written, file="profiles/coding.yaml", env={}).problems
    return f"```text\n{render_problem(problem)}\n```\n"


def _profile() -> Iterator[str]:
    schema = profile_schema()
    yield "Every key, as `orchestrate schema` has it for editors. Unknown keys are errors.\n"
    for title, prefix, block in _blocks(schema):
        rows = [
            (
                code(f"{prefix}{name}"),
                _type(field, schema),
                _described(name, field, block, schema["definitions"]),
                _class_of(title, f"{prefix}{name}"),
            )
            for name, field in block["properties"].items()
        ]
        yield f"### {title}\n"
        head = ("key", "value", "", "a change of it")
        if any(row[-1] for row in rows):
            yield table(head, rows)
        else:
            yield table(head[:-1], [row[:-1] for row in rows])


def _class_of(title: str, key: str) -> str:
    """What a change of a key of an instance takes; empty for what is no key of one."""
    if "instance" not in title:
        return ""
    block = key.partition(".")[0].removesuffix("[]")
    return str(PROFILE_FIELDS.get(key) or PROFILE_FIELDS[block])


def _blocks(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    known = schema["definitions"]
    yield "The file", "", schema
    yield "`catalog:`", "catalog.", known["CatalogConfig"]
    yield "`gateway:`", "gateway.", known["GatewayConfig"]
    yield "`queue:` of the gateway", "gateway.queue.", known["QueueConfig"]
    yield "`log:` of the gateway", "gateway.log.", known["LogConfig"]
    yield "Each of `routes:` of the gateway", "gateway.routes.*.", known["RouteConfig"]
    yield "Each of `to:` of a route", "gateway.routes.*.to[].", known["AimConfig"]
    yield "`defaults:`", "defaults.", known["Defaults"]
    llama_server, ollama = known["LlamaServerConfig"], known["OllamaConfig"]
    both, first, second = _split(llama_server, ollama)
    yield "An instance, whatever its engine", "", both
    yield "An instance of llama-server", "", first
    yield "An instance of Ollama", "", second
    yield "Each of `models:` of an Ollama instance", "models[].", known["ModelConfig"]
    for name in ("readiness", "liveness", "restart", "stop", "update", "resources", "verify"):
        title = f"`{name}:` of an instance, or of its engine's defaults"
        yield title, f"{name}.", known[f"{name.capitalize()}Config"]
    parts = {"memory": "MemoryLimits", "cpu": "CpuLimits", "restarts": "RestartLimits"}
    limits = {
        f"{part}.{key}": field
        for part, block in parts.items()
        for key, field in known[block]["properties"].items()
    }
    yield "`limits:` of an instance, or of its engine's defaults", "limits.", {"properties": limits}


def _split(*blocks: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The keys that all of these have alike, then what each has of its own."""
    first, *others = (block["properties"] for block in blocks)
    common = {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}
    yield {"properties": common, "required": ()}
    for block in blocks:
        own = {k: v for k, v in block["properties"].items() if k not in common}
        yield {**block, "properties": own}


def _described(name: str, field: Mapping[str, Any], block: Mapping[str, Any], known: Any) -> str:
    told = str(field.get("description") or known[_definition(field)]["description"])
    required = " Required." if name in block.get("required", ()) else ""
    if "default" in field and "efault" not in told:
        told += f" Default: {field['default']}."
    return told + required


def _definition(field: Mapping[str, Any]) -> str:
    """The block that a key holds. What says the same as the block itself is not said twice."""
    [reference] = field.get("allOf", [field])
    return str(reference["$ref"]).rpartition("/")[2]


def _type(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What may stand there, in a word or two."""
    if "allOf" in field or "$ref" in field:
        return "mapping, see below"
    if _is_duration(field):
        return "duration"
    if any("iB" in str(one.get("pattern", "")) for one in field.get("anyOf", ())):
        return "size"
    if "anyOf" in field:
        kinds = [_type(one, schema) for one in field["anyOf"] if not _is_reference(one)]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return " or ".join(code(str(one)) for one in field["enum"])
    if "const" in field:
        return code(str(field["const"]))
    kind = field.get("type")
    if kind == "array":
        return f"list of {_type(field['items'], schema)}"
    if kind == "object":
        return "mapping"
    if isinstance(kind, list):
        return "text, number, or true or false" if "boolean" in kind else "text or number"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    return words.get(str(kind), str(kind))


def _is_duration(field: Mapping[str, Any]) -> bool:
    return any("dhms" in str(one.get("pattern", "")) for one in field.get("anyOf", ()))


def _is_reference(field: Mapping[str, Any]) -> bool:
    return "${" in str(field.get("pattern", "")).replace("\\", "") and len(field) == 2


# --- words, environment, files, routes ---------------------------------------------------------


def _words() -> Iterator[str]:
    same({"pending", *Phase}, text.PHASES, "phases")
    same(_posted(), text.EVENTS, "event types")
    same(set(ModelState), text.MODEL_STATES, "states of a model")
    same(set(Verb), text.ACTIONS, "actions")
    same(reasons_incode(), {**text.REASONS, **text.MODEL_REASONS, **text.EVENT_REASONS}, "reasons")
    yield "### Phases\n"
    yield table(("phase", "means"), pairs(text.PHASES))
    yield "### Reasons of an instance\n"
    yield table(("reason", "means"), pairs(text.REASONS))
    yield "### States of a model\n"
    yield table(("state", "means"), pairs(text.MODEL_STATES))
    yield "### Reasons of a model\n"
    yield table(("reason", "means"), pairs(text.MODEL_REASONS))
    yield "### Event types\n"
    yield table(("type", "means"), pairs(text.EVENTS))
    yield "Events have the reasons of instances, and these:\n"
    yield table(("reason", "means"), pairs(text.EVENT_REASONS))
    yield "### Actions of a plan\n"
    yield table(("action", "means"), pairs(text.ACTIONS))


def _posted() -> set[str]:
    """The types of events that are ever posted: a word that is only defined promises nothing."""
    folded = {ROOT / "orchestrator/core/event.py", ROOT / "orchestrator/core/status.py"}
    code = "".join(path.read_text() for path in _sources() if path not in folded)
    return {one.value for one in EventType if re.search(rf"EventType\.{one.name}\b", code)}


def reasons_incode() -> set[str]:
    """Every word that the code gives as a reason, by its syntax."""
    found: set[str] = {*model_making._DONE.values(), *Absence}  # pyright: ignore[reportPrivateUsage]
    # What a probe found, or passed a limit, is the reason of the event that tells it.
    found.update(get_args(get_type_hints(Verdict)["kind"]), get_args(AlertKind))
    trees = [ast.parse(path.read_text()) for path in _sources()]
    constants = {name: word for tree in trees for name, word in _constants(tree)}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found.update(_reasons(node, constants))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # Not in a class: there it is the word of an error of the control API.
                given = [value for one in ast.walk(node) for value in _assigned(one)]
                found.update(_words_of(given, constants))
    return found - {""}


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Words that a module has a name for."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and isinstance(node.value.value, str):
                    yield target.id, node.value.value


def _assigned(node: ast.AST) -> Iterator[ast.expr]:
    """What is given to a variable `reason`, alone or as one of several."""
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=False))
        for name, value in pairs:
            if isinstance(name, ast.Name) and name.id == "reason":
                yield value


def _words_of(values: Iterable[ast.expr], constants: Mapping[str, str]) -> Iterator[str]:
    for value in values:
        branches = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        for one in branches:
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                yield one.value
            elif isinstance(one, ast.Name) and one.id in constants:
                yield constants[one.id]


def _reasons(call: ast.Call, constants: Mapping[str, str]) -> Iterator[str]:
    function = call.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    values = [word.value for word in call.keywords if word.arg == "reason"]
    if name == "Waiting":
        values += call.args[:1]
    if name == "Event":
        values += call.args[2:3]
    if name == "Action":
        values += call.args[4:5]
    if name == "Refusal":
        values += call.args[:1]
    if name == "say":
        values += call.args[1:2]
    if name == "_post":
        values += call.args[2:3]
    yield from _words_of(values, constants)
    if name == "Refusal" and any(isinstance(value, ast.JoinedStr) for value in values):
        # `{what is done}-failed`
        yield from (f"{do}-failed" for do in Do)


def _sources() -> list[Path]:
    return sorted((ROOT / "orchestrator").rglob("*.py"))


def _environment() -> str:
    named = {
        name
        for path in _sources()
        for name in re.findall(r"\bORCHESTRATE_[A-Z]+(?:_[A-Z]+)*\b", path.read_text())
    }
    same(named - OURS_ALONE, text.ENVIRONMENT, "environment variables")
    rows = [*text.ENVIRONMENT.items(), *text.OTHERS.items()]
    coded = [(", ".join(map(code, names.split(", "))), what) for names, what in rows]
    return table(("variable", "means"), coded)


def _files() -> str:
    from orchestrator.settings import Settings

    settings = Settings("/s", "/c", "/p")
    paths = [settings.socket_path, settings.daemon_log, settings.lock_path, settings.store_path]
    paths.append(settings.token_path)
    wanted = {path.removeprefix("/s/") for path in paths}
    same({*wanted, "logs/NAME.log"}, text.FILES, "files")
    return "Only its owner can read what is in there.\n\n" + table(
        ("file", "is"), pairs(text.FILES)
    )


def _routes() -> Iterator[str]:
    control: Any = MagicMock()
    served = Doors(control, ()).operations
    yield "HTTP over `control.sock`, which only its owner can open, and over TCP when asked for:"
    yield "see [The control API](api.md).\n"
    rows = [
        (f"`{one.method} {one.path.replace(':path}', '}')}`", one.summary.replace("|", "\\|"))
        for one in served
    ]
    yield table(("request", "answers"), rows)
    yield 'An error is `{"error": {"code", "message", "hint"}}`, with the fitting HTTP status.\n'


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
        print(f"wrote {PAGE.relative_to(ROOT)}")
    else:
        print(page(), end="")
