"""Ollama: `ollama serve`, configured by its environment alone.

Every setting of a profile becomes the variable that the help of this very binary lists. Where it
listens and where its models lie are always declared, for neither is ever inherited.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.engine import FlagValue, Launch, LaunchRequest, Layer
from orchestrator.core.problem import Path, did_you_mean, listing
from orchestrator.core.shared_store import store_folder
from orchestrator.core.spec import Command, Endpoint, InputFile
from orchestrator.engines.merge import Findings
from orchestrator.engines.ollama_settings import PREFIX, Variables, as_written, rendered

NAME = "ollama"

_RESERVED = {"host": "the address is set by `host:` and `port:`, beside `settings:`"}
_NEEDED = ("models", "max_loaded_models")
"""Settings that are read here, too."""


_KEEPS = {f"{PREFIX}NOPRUNE": "true"}
"""A server that tidies up its store at its start removes what a pull was to go on with, and what
others who share the store are just bringing; two that do so at once make each other fail."""


class Ollama:
    """An Ollama binary, and the settings that it takes."""

    def __init__(
        self, binary: InputFile, launcher: tuple[str, ...], variables: Variables, *, home: str
    ) -> None:
        self._binary = binary
        self._launcher = launcher
        self._variables = variables
        self._home = home

    @property
    def name(self) -> str:
        return NAME

    @property
    def binary(self) -> InputFile:
        return self._binary

    @property
    def variables(self) -> Variables:
        """What this binary's help says."""
        return self._variables

    def launch(self, request: LaunchRequest) -> Launch:
        """Check every setting and render the environment. All that is wrong comes at once."""
        findings = Findings()
        values = self._merged(request.layers, findings)
        self._check_env(request, findings)
        endpoint = Endpoint(request.host, request.port)
        if "," in request.host or "/" in request.host:
            message = f"Ollama listens on one address, not on {request.host!r}"
            findings.wrong((*request.args_path[:-1], "host"), message, key=False)
        store = self._folder(values.pop("models", None), request)
        own = {f"{PREFIX}{name.upper()}": value for name, value in values.items()}
        env = {
            **request.env,
            **_KEEPS,
            **own,
            f"{PREFIX}HOST": _address(endpoint),
            f"{PREFIX}MODELS": store,
        }
        issues = tuple(findings.issues)
        if findings.failed:
            return Launch(None, None, issues, (self._binary,), limit=_limit(values))
        command = Command((*self._launcher, "serve"), dict(sorted(env.items())), request.cwd)
        return Launch(command, endpoint, issues, (self._binary,), store=store, limit=_limit(values))

    def _merged(self, layers: tuple[Layer, ...], findings: Findings) -> dict[str, str]:
        """The settings in force; `null` takes back what an earlier layer set."""
        values: dict[str, str] = {}
        for layer in layers:
            for name, value in self._known(layer, findings):
                if value is None:
                    values.pop(name, None)
                    continue
                word = self._word(name, value, (*layer.path, name), findings)
                if word is not None:
                    values[name] = word
        return dict(sorted(values.items()))

    def _word(self, name: str, value: FlagValue, path: Path, findings: Findings) -> str | None:
        """The value as Ollama reads it; where the help could not be read, as it was written."""
        try:
            return rendered(name, value)
        except ValueError as error:
            message = f"setting {name!r}: {error}"
            if self._variables.trusted or name in _NEEDED:
                findings.wrong(path, message, key=False)
                return None
        try:
            word = as_written(value)
        except ValueError:
            findings.wrong(path, message, key=False)
            return None
        findings.doubtful(path, message, "Ollama may pass over it", key=False)
        return word

    def _known(self, layer: Layer, findings: Findings) -> Iterator[tuple[str, FlagValue]]:
        for name, value in layer.flags.items():
            path = (*layer.path, name)
            hint = _RESERVED.get(name)
            if hint is not None:
                findings.wrong(path, f"setting {name!r} is set elsewhere", hint)
            elif name in self._variables.about:
                yield name, value
            elif self._variables.trusted:
                message = f"setting {name!r} is not one that {self._binary.path} takes"
                findings.wrong(path, message, self._suggestion(name))
            else:
                message = f"setting {name!r} cannot be checked"
                hint = f"the help of {self._binary.path} does not list its settings"
                findings.doubtful(path, message, hint)
                yield name, value

    def _suggestion(self, name: str) -> str:
        word = name.lower().replace("-", "_").removeprefix(PREFIX.lower())
        if word.startswith("llama_arg_"):
            return f"write {word.upper()} in `env:`"
        known = sorted(self._variables.about.keys() - _RESERVED.keys())
        if word in known:
            return f"write it as {word!r}"
        return did_you_mean(word, known) or f"known: {listing(known, limit=30)}"

    def _check_env(self, request: LaunchRequest, findings: Findings) -> None:
        """What is a setting is not also set behind its back."""
        folder: Path = (*request.args_path[:-1], "env")
        for name in sorted(request.env):
            key = name.removeprefix(PREFIX).lower()
            if not name.startswith(PREFIX):
                continue
            if key in _RESERVED:
                findings.wrong((*folder, name), f"{name} is set elsewhere", _RESERVED[key])
            elif key in self._variables.about:
                hint = f"write {key!r} in `settings:`, where it is checked"
                findings.wrong((*folder, name), f"{name} is a setting", hint)

    def _folder(self, models: str | None, request: LaunchRequest) -> str:
        """Where the models lie: what the profile says, relative to it, else the caller's own."""
        if models is None:
            return request.store
        return store_folder(models, folder=request.folder, home=self._home)


def _address(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"


def _limit(values: dict[str, str]) -> int | None:
    """How many models fit into memory together; 0 leaves that to Ollama."""
    return int(values.get("max_loaded_models", "0")) or None
