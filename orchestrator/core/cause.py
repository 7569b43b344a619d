"""Why a run failed: from the evidence to a cause, with what to do about it. Pure.

`cause_table` says what an engine's words mean; here it is weighed what is believed first. A cause
that a retry cannot mend is `permanent`: then only a change of what it hangs on brings another try
(`Mending`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core.cause_table import KINDS, RULES, SENT, SIGNALS, Rule

FileState = Literal["there", "missing", "unreadable", "folder", "changed"]
OomKind = Literal["", "host", "cgroup"]

LAST_WORDS = 20
"""Of a run that served, so many lines at its end can be about its end: the rest are requests."""

MARGIN = 1.1
"""What was not enough, and a little more, is what is waited for."""

NEARLY_ALL = 0.9
"""Of what there is at all: more will never be free."""


class FileFact(Struct, frozen=True):
    """A file that the run was to read, as it is now. `changed`: another than when it began."""

    role: str
    path: str
    state: FileState


class Evidence(Struct, frozen=True):
    """All that is known of how a run ended.

    `ended` is that in words, `signal` a name such as `SIGKILL`, `lines` are of this run alone.
    `taken` tells who took its port while it started. `oom` is whose memory ran out when the kernel
    killed it. `peak`, `available`, `total` and `limit` are bytes: the most that it had, what there
    is now that it is gone, what the machine has in all, and the limit of its control group; 0 where
    that is not known.
    """

    ended: str
    code: int | None = None
    signal: str = ""
    lines: tuple[str, ...] = ()
    was_ready: bool = False
    taken: str = ""
    oom: OomKind = ""
    peak: int = 0
    available: int = 0
    total: int = 0
    limit: int = 0
    files: tuple[FileFact, ...] = ()


class Cause(Struct, frozen=True):
    """`reason` is a fixed word, `message` for people, with the engine's own error line in it.

    `waits`: it passes by itself, and is no fault of the instance. `memory` is how many bytes have
    to be available before another try makes sense, 0 where that is not what it hangs on.
    """

    reason: str
    message: str
    hint: str = ""
    permanent: bool = False
    waits: bool = False
    memory: int = 0

    @property
    def told(self) -> str:
        """Message and hint in one line."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Seen(Struct, frozen=True):
    """A file as it was when a run failed: `mark` is another once anything about it is."""

    path: str
    mark: str


class Mending(Struct, frozen=True):
    """What an instance that failed hangs on: a change of any of it is reason to try again.

    So many bytes of `memory`, of the machine and of the control groups in these folders, have to
    be available; 0 where it does not hang on that.
    """

    files: tuple[Seen, ...] = ()
    memory: int = 0
    groups: tuple[str, ...] = ()

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Mending:
        """From what `as_json` has made of it."""
        files = tuple(Seen(path, mark) for path, mark in data["files"].items())
        return cls(files, data["memory"], tuple(data["groups"]))

    def as_json(self) -> dict[str, Any]:
        """As the data of an event has it."""
        files = {file.path: file.mark for file in self.files}
        return {"files": files, "memory": self.memory, "groups": list(self.groups)}


def judge(evidence: Evidence) -> Cause:
    """The cause of an end that nobody asked for."""
    cause = _judged(evidence)
    if any(file.state == "changed" for file in evidence.files):
        # Nobody can say what of it was read: before it changed, or in the middle of that.
        return replace(cause, permanent=False)
    return cause


def _judged(evidence: Evidence) -> Cause:
    if evidence.oom:
        return _out_of_memory(evidence, _KILLED_FOR[evidence.oom], "", held=evidence.peak)
    if evidence.signal in SENT:
        # Whoever sent it, the engine knows nothing of why.
        return Cause("crashed", evidence.ended, _hint(evidence.signal))
    for rule in RULES:
        line = _first_match(rule, evidence)
        if line:
            return _by_rule(rule, line, evidence)
    told = _told(evidence, _last_words(evidence))
    if evidence.taken and not evidence.was_ready:
        return _taken(evidence, told)
    if not evidence.was_ready and evidence.signal == "SIGILL":
        return _of("binary-incompatible", f"{told}; this processor lacks an instruction of it")
    broken = _broken(evidence.files)
    if broken is not None and evidence.code and not evidence.was_ready:
        reason, what = broken
        return _of(reason, f"{what}; {told}")
    if evidence.signal:
        return Cause("crashed", told, _hint(evidence.signal))
    return Cause("crashed" if evidence.code != 0 else "exited", told)


def condemned(reason: str, verdict: str, lines: Iterable[str]) -> Cause:
    """Of what is to be ended: it hangs, or it does not come up."""
    last = telling(tuple(lines)) if reason == "timeout" else ""
    return Cause(reason, f"{verdict}; its last words: {last}" if last else verdict, hint_of(reason))


def refused(reason: str, message: str) -> Cause:
    """Of a process that the kernel did not start."""
    return _of(reason, message)


def hint_of(reason: str) -> str:
    """What to do about it, whatever else is known."""
    return KINDS[reason].hint if reason in KINDS else ""


def telling(lines: tuple[str, ...]) -> str:
    """The line that most likely says why: the last that speaks of an error, else the last."""
    return complaint(lines) or (said(lines[-1]) if lines else "")


def complaint(lines: tuple[str, ...]) -> str:
    """The last line that speaks of an error; empty where none does."""
    return next((said(line) for line in reversed(lines) if _COMPLAINS.search(line)), "")


_COMPLAINS = re.compile(
    r"\b(?:error|fail|fatal|panic|abort|assert|terminate called|exception|cannot|unable)"
    r"|^\d+(?:\.\d+){3} [EF] ",
    re.IGNORECASE,
)
"""What a line holds that is no report of something else: the words, or the gravity that it has."""


_STAMP = re.compile(r"^\d+(?:\.\d+){3} [A-Z] +")
"""What llama-server begins its lines with: the time since its start, and how grave it is."""


def said(line: str) -> str:
    """A line as the engine meant it, without the time."""
    return _STAMP.sub("", line)


def _hint(signal: str) -> str:
    return SIGNALS.get(signal, SENT.get(signal, ""))


def _of(reason: str, message: str, *, hint: str = "", permanent: bool | None = None) -> Cause:
    kind = KINDS[reason]
    lasts = kind.permanent if permanent is None else permanent
    return Cause(reason, message, hint or kind.hint, permanent=lasts, waits=kind.waits)


def _told(evidence: Evidence, line: str) -> str:
    return f"{evidence.ended}: {line}" if line and evidence.code != 0 else evidence.ended


def _last_words(evidence: Evidence) -> str:
    """What the engine said of its end. Of a signal it says nothing but in a line on an error: its
    last one is about something else."""
    if not evidence.signal:
        return telling(evidence.lines)
    return complaint(evidence.lines[-LAST_WORDS:] if evidence.was_ready else evidence.lines)


_NOT_RUN = (126, 127)
"""Codes by which a shell says that it could not run a program."""


def _first_match(rule: Rule, evidence: Evidence) -> str:
    """The line that the rule is about; empty when there is none."""
    if evidence.code == 0 or (evidence.was_ready and not rule.any_time):
        return ""
    # Memory that was refused may have been done without: then that was said long ago.
    near = evidence.was_ready or rule.any_time
    lines = evidence.lines[-LAST_WORDS:] if near else evidence.lines
    if rule.last and evidence.code not in _NOT_RUN:
        lines = lines[-1:]
    return next((line for line in lines if rule.matches(line)), "")


def _by_rule(rule: Rule, line: str, evidence: Evidence) -> Cause:
    told = _told(evidence, said(line))
    if rule.reason == "out-of-memory":
        wanted = _bytes_asked(line)
        held = wanted + evidence.peak if wanted and rule.memory == "host" else 0
        return _out_of_memory(evidence, rule.what, said(line), held=held)
    if rule.reason in ("port-taken", "address-unavailable") and evidence.taken:
        return _taken(evidence, told)
    broken = _broken(evidence.files) if rule.reason.startswith("model-") else None
    if broken is not None:
        reason, what = broken
        return _of(reason, f"{what}; {told}")
    message = f"{rule.what}; {told}" if rule.what else told
    cause = _of(rule.reason, message, hint=rule.hint, permanent=rule.permanent)
    # That its own port is free again can only be seen where that was seen taken.
    return replace(cause, waits=False)


def _taken(evidence: Evidence, told: str) -> Cause:
    return _of("port-taken", f"{evidence.taken}; {told}")


def _broken(files: tuple[FileFact, ...]) -> tuple[str, str] | None:
    """The file that could not be read, and how that is called; None when all are there."""
    for file in files:
        is_binary = file.role == "binary"
        if file.state == "missing":
            reason = "binary-missing" if is_binary else "model-missing"
            return reason, f"{file.path} does not exist"
        if file.state == "unreadable":
            reason = "permission" if is_binary else "model-unreadable"
            return reason, f"{file.path} may not be read"
        if file.state == "folder":
            return ("binary-missing" if is_binary else "model-unreadable"), (
                f"{file.path} is a folder"
            )
    return None


_KILLED_FOR = {
    "host": "the kernel killed it, for the machine was out of memory",
    "cgroup": "the kernel killed it, for its control group was out of memory",
}


def _out_of_memory(evidence: Evidence, what: str, line: str, *, held: int) -> Cause:
    """Permanent where it can be seen that there is not enough, and until there is.

    What was ready before is worth another try at any rate: there was enough once.
    """
    needed = _needed(evidence, held)
    short = 0 < evidence.available < needed and not evidence.was_ready
    amount = ""
    if short:
        amount = f"; at least {_size(needed)} are needed, {_size(evidence.available)} are available"
    message = f"{what}; {_told(evidence, line)}{amount}"
    hint = hint_of("out-of-memory")
    return Cause("out-of-memory", message, hint, permanent=short, memory=needed if short else 0)


def _needed(evidence: Evidence, held: int) -> int:
    """What to wait for: never more than can come to be, for `held` counts what others share too."""
    needed = int(held * MARGIN)
    if evidence.total and needed > evidence.total:
        needed = int(evidence.total * NEARLY_ALL)
    most = int(evidence.limit * NEARLY_ALL)
    # Had it the group for itself, then only a higher limit helps, and that may come.
    return most if evidence.available < most < evidence.limit < needed else needed


_SIZES = (
    (re.compile(r"attempted to allocate +([\d.]+) MB"), 2**20),
    (re.compile(r"failed to allocate +([\d.]+) MB"), 2**20),
    (re.compile(r"buffer of size (\d+)"), 1),
)


def _bytes_asked(line: str) -> int:
    for pattern, unit in _SIZES:
        if found := pattern.search(line):
            return int(float(found.group(1)) * unit)
    return 0


def _size(amount: int) -> str:
    return f"{amount / 2**20:,.0f} MiB"
