"""llama-server: its flags as a profile declares them, checked and rendered by its own help.

The order of an argv is fixed (model, host, port, alias, projector, flags by name, raw arguments),
so that the same settings are the same command however the YAML is ordered. A secret never gets
there: it is handed over in the environment variable that the help names for it.
"""

from __future__ import annotations

from msgspec import Struct, field

from orchestrator.core.engine import Launch, LaunchRequest
from orchestrator.core.problem import Path
from orchestrator.core.secret import is_secret_name
from orchestrator.core.spec import Command, Endpoint, Inference, InputFile
from orchestrator.engines.flags import FlagTable
from orchestrator.engines.merge import (
    RESERVED,
    SECRET_ENV,
    Findings,
    Merger,
    Setting,
    guessed,
    refusal,
)
from orchestrator.engines.values import BadValueError, rendered

NAME = "llama-server"

_ADDRESSING = ("api-prefix", "ssl-key-file", "ssl-cert-file")
_TRUE = {"1", "true", "on", "enabled"}
_COMPLETION = '{"prompt": [0], "n_predict": 1, "cache_prompt": false}'
_PROJECTOR = {"--mmproj", "--mmproj-url", "--no-mmproj", "--no-mmproj-auto"}


def is_secret_flag(name: str) -> bool:
    """True when the value of the flag `name` must never be shown."""
    key = name.strip().lstrip("-").replace("_", "-")
    return key in SECRET_ENV or is_secret_name(key)


class _Draft(Struct):
    """The pieces of one command. `addressing` are the values that decide where it is reached."""

    words: list[str] = field(default_factory=list[str])
    names: set[str] = field(default_factory=set[str])
    secrets: dict[str, str] = field(default_factory=dict[str, str])
    addressing: dict[str, tuple[str, Path]] = field(default_factory=dict[str, tuple[str, Path]])

    def value(self, key: str) -> str:
        return self.addressing[key][0] if key in self.addressing else ""


class LlamaServer:
    """A llama-server binary, or the embedded program in its place, and the flags it takes."""

    def __init__(
        self,
        binary: InputFile,
        launcher: tuple[str, ...],
        table: FlagTable,
        *,
        embedded: bool = False,
    ) -> None:
        self._binary = binary
        self._launcher = launcher
        self._table = table
        self._embedded = embedded

    @property
    def name(self) -> str:
        return NAME

    @property
    def binary(self) -> InputFile:
        return self._binary

    @property
    def table(self) -> FlagTable:
        """What this binary's help says."""
        return self._table

    @property
    def embedded(self) -> bool:
        """True for the embedded program."""
        return self._embedded

    def launch(self, request: LaunchRequest) -> Launch:
        """Check every setting and render the command.

        Reports all that is wrong at once. Without a `model_path` the settings are checked all the
        same, and there is no command. `inputs` holds the binary: the model is the caller's to add.
        """
        draft, findings = _Draft(), Findings()
        program = "the embedded engine" if self._embedded else self._binary.path
        merger = Merger(self._table, program, self._embedded)
        for setting in merger.merged(request.layers, findings):
            self._render(setting, request.folder, draft, findings)
        self._check_args(request, draft, findings)
        self._check_env(request, draft, findings)
        endpoint = _endpoint(request, draft, findings)
        issues, inputs = tuple(findings.issues), (self._binary,)
        if request.model_path is None or endpoint is None or findings.failed:
            return Launch(None, None, issues, inputs)
        argv = self._argv(request, draft)
        env = dict(sorted({**request.env, **draft.secrets}.items()))
        command = Command(argv=argv, env=env, cwd=request.cwd)
        return Launch(command, endpoint, issues, inputs, self._inference(request, draft))

    def _inference(self, request: LaunchRequest, draft: _Draft) -> Inference | None:
        """The least that this server can be asked for; None for one that is to fall asleep.

        The prompt is a bare token: words would bring the token that every prompt begins with, and
        be given the slot of whoever spoke last, for having so much in common with him.
        """
        words = (*draft.names, *request.args)
        on = {flag.key for word in words if (flag := self._table.by_spelling.get(word))}
        for name, value in request.env.items():
            flag = self._table.by_env.get(name)
            if flag is not None and value.lower() in _TRUE:
                on.add(flag.key)
        if "sleep-idle-seconds" in on:
            return None
        if "reranking" in on:
            return Inference("/v1/rerank", '{"query": "a", "documents": ["a"]}')
        if "embeddings" in on:
            # Not /v1/embeddings: that refuses a model which does not pool.
            return Inference("/embedding", '{"content": "a"}')
        return Inference("/completion", _COMPLETION)

    def _argv(self, request: LaunchRequest, draft: _Draft) -> tuple[str, ...]:
        fixed = ["--model", request.model_path or "", "--host", request.host]
        fixed += ["--port", str(request.port)]
        if request.alias and "--alias" not in draft.names:
            fixed += ["--alias", request.alias]
        if request.mmproj_path and not draft.names & _PROJECTOR:
            fixed += ["--mmproj", request.mmproj_path]
        fixed += self._threads(request, draft)
        return (*self._launcher, *fixed, *draft.words, *request.args)

    def _threads(self, request: LaunchRequest, draft: _Draft) -> list[str]:
        """How many it is to have, unless the profile says so in whatever way, or it cannot tell."""
        flag = self._table.by_spelling.get("--threads")
        if request.threads is None or flag is None or flag.env in request.env:
            return []
        said = (*draft.names, *request.args)
        if any(self._table.by_spelling.get(word) is flag for word in said):
            return []
        return ["--threads", str(request.threads)]

    def _render(self, setting: Setting, folder: str, draft: _Draft, findings: Findings) -> None:
        flag, path = setting.flag, setting.path
        if is_secret_flag(flag.key):
            _hand_over(setting, draft, findings)
            return
        try:
            done = rendered(flag, setting.value, folder)
        except BadValueError as error:
            if self._table.trusted:
                findings.wrong(path, error.message, error.hint, key=False)
                return
            findings.doubtful(path, error.message, error.hint, key=False)
            done = rendered(guessed(flag.key, setting.value), setting.value, folder)
        if done.doubt:
            findings.doubtful(path, done.doubt, done.hint, key=False)
        draft.words += done.words
        draft.names.update(done.words[:1])
        if flag.key in _ADDRESSING and len(done.words) > 1:
            draft.addressing[flag.key] = (done.words[1], path)

    def _check_args(self, request: LaunchRequest, draft: _Draft, findings: Findings) -> None:
        """Raw arguments are passed on as they are, but must not move or end the server."""
        skip = 0
        for index, word in enumerate(request.args):
            if skip:
                skip -= 1
                continue
            path = (*request.args_path, index)
            flag = self._table.by_spelling.get(word)
            key = flag.key if flag else word.removeprefix("--")
            refused = self._raw_refusal(word)
            if refused:
                findings.wrong(path, *refused)
            elif key in _ADDRESSING and index + 1 < len(request.args):
                draft.addressing[key] = (request.args[index + 1], path)
            skip = {"value": 1, "two": 2}.get(flag.kind, 0) if flag else 0

    def _raw_refusal(self, word: str) -> tuple[str, str] | None:
        if not word.startswith("-"):
            return None
        if is_secret_flag(word):
            key = word.lstrip("-")
            return f"{word} would show a secret in the process list", f"move {key} to `flags:`"
        flag = self._table.by_spelling.get(word)
        if flag:
            return refusal(flag)
        hint = RESERVED.get(word.removeprefix("--"))
        return (f"{word} is set elsewhere", hint) if hint else None

    def _check_env(self, request: LaunchRequest, draft: _Draft, findings: Findings) -> None:
        """Refuse the variables that would move the server behind the back of what was checked."""
        for name in sorted(request.env):
            flag = self._table.by_env.get(name)
            if flag is None:
                continue
            path = (*request.args_path[:-1], "env", name)
            if name in draft.secrets:
                findings.wrong(path, f"{name} is also set by the flag {flag.key!r}", "keep one")
            elif flag.key in RESERVED:
                findings.wrong(path, f"{name} is set elsewhere", RESERVED[flag.key])
            elif flag.key in _ADDRESSING:
                message = f"{name} changes where the server is reached"
                findings.wrong(path, message, f"write {flag.key!r} in `flags:`")


def _hand_over(setting: Setting, draft: _Draft, findings: Findings) -> None:
    """Put a secret into the environment; its value appears in no message."""
    key, value = setting.flag.key, setting.value
    variable = setting.flag.env or SECRET_ENV.get(key, "")
    items = value if isinstance(value, list) else [value]
    if not variable:
        findings.wrong(setting.path, f"flag {key!r} would show a secret in the process list")
    elif any(isinstance(item, (bool, float, dict, list)) for item in items):
        findings.wrong(setting.path, f"flag {key!r} takes a text, or a list of texts", key=False)
    else:
        draft.secrets[variable] = ",".join(str(item) for item in items)


def _endpoint(request: LaunchRequest, draft: _Draft, findings: Findings) -> Endpoint | None:
    """Where the rendered command will answer: the first TCP address, with prefix and TLS."""
    hosts = [host.strip() for host in request.host.split(",")]
    tcp = [host for host in hosts if host and not host.endswith(".sock")]
    if not tcp:
        path = (*request.args_path[:-1], "host")
        findings.wrong(path, f"{request.host!r} is no address", "name one to listen on", key=False)
        return None
    prefix = draft.value("api-prefix")
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        path, inner = draft.addressing["api-prefix"][1], prefix.strip("/")
        message = f"flag 'api-prefix' starts with a slash and ends without one, not {prefix!r}"
        findings.wrong(path, message, f"write /{inner}" if inner else "leave it out", key=False)
    tls = [key for key in ("ssl-key-file", "ssl-cert-file") if draft.value(key)]
    if len(tls) == 1:
        path = draft.addressing[tls[0]][1]
        hint = f"with {tls[0]} alone the server would answer in plain text"
        findings.wrong(path, "TLS needs both ssl-key-file and ssl-cert-file", hint)
    return Endpoint(tcp[0], request.port, "https" if len(tls) == 2 else "http", prefix)
