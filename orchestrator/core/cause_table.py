"""What engines say when they fail, and what can be done: the table of causes.

The rules are in order: the first that matches a line is believed. Each was seen in the output of a
real engine, or taken from the place in its source that prints it (`tests/data/causes`).
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct


class Kind(Struct, frozen=True):
    """What a reason means, what to do about it, and what brings another try.

    `permanent`: a retry alone changes nothing. `waits`: it passes by itself.
    """

    meaning: str
    hint: str
    again: str
    permanent: bool = False
    waits: bool = False


_FILES = "the model file, or the binary, appears or changes"
_BINARY = "the binary appears or changes"

KINDS: dict[str, Kind] = {
    "bad-flag": Kind(
        "the engine does not take a flag, or its value",
        "correct it under `flags:` or `args:` in the profile; `orchestrate plan` shows the command",
        "the profile is edited, or the binary changes",
        permanent=True,
    ),
    "model-missing": Kind(
        "the model file is not there",
        "put it back: it is started as soon as the file is there; or name another with `model:`",
        _FILES,
        permanent=True,
    ),
    "model-unreadable": Kind(
        "the model file is damaged, incomplete, no GGUF, or may not be read",
        "get the file again: it is started as soon as the file changes",
        _FILES,
        permanent=True,
    ),
    "unsupported-model": Kind(
        "this engine cannot run models of that kind",
        "a newer llama.cpp may know it; or name another model",
        _FILES,
        permanent=True,
    ),
    "port-taken": Kind(
        "something else listens on its port",
        "stop it, or give this instance another port, or `port: auto`",
        "the port is free",
        waits=True,
    ),
    "address-unavailable": Kind(
        "the address that it is to listen on is none of this machine",
        "correct `host:` in the profile",
        "the restart policy says so",
    ),
    "out-of-memory": Kind(
        "the machine, its control group or a GPU has not enough memory",
        "a smaller `ctx-size`, fewer `n-gpu-layers`, a smaller quantisation, or a higher limit",
        "as much is available as it had asked for; where that cannot be seen, as the restart "
        "policy says",
    ),
    "binary-missing": Kind(
        "the engine's program is not there",
        "install it, or name another with `binary:`",
        _BINARY,
        permanent=True,
    ),
    "binary-incompatible": Kind(
        "the engine's program cannot run here: made for another machine, or a library or an "
        "interpreter of it is missing",
        "install one that was made for this machine",
        _BINARY,
        permanent=True,
    ),
    "permission": Kind(
        "it may not run its program, or use what it needs",
        "mend the permissions",
        "the file's permissions change",
        permanent=True,
    ),
    "hung": Kind(
        "it was ready, and answers its health checks no more",
        "",
        "the restart policy says so: at once, then with longer pauses",
    ),
    "timeout": Kind(
        "it did not become ready in time",
        "`readiness.timeout` is the longest time without progress, `readiness.deadline` that in "
        "all",
        "the restart policy says so",
    ),
    "crashed": Kind(
        "it ended by itself; the message has the signal's name or the exit code, and its own words",
        "",
        "the restart policy says so: at once if it ran well before, then with longer pauses",
    ),
}
"""Every cause, by its reason."""

SENT = {
    "SIGKILL": "somebody killed it; the kernel has no record of it running out of memory",
    "SIGTERM": "somebody else ended it: `orchestrate stop` would keep it down",
    "SIGINT": "somebody else ended it: `orchestrate stop` would keep it down",
    "SIGHUP": "somebody else ended it: `orchestrate stop` would keep it down",
}
"""Signals that come from outside: whatever its log says, that is why it ended."""

SIGNALS = {
    "SIGSEGV": "a fault of the engine: try another version of it",
    "SIGBUS": "a fault of the engine, or of a file that was cut short while it was mapped",
    "SIGABRT": "the engine gave up: its log says on what",
    "SIGFPE": "a fault of the engine: try another version of it",
    "SIGILL": "a fault of the engine, or a build for another processor",
}
"""What a signal tells that a process brings upon itself."""


class Rule(Struct, frozen=True):
    """Lines that hold `says` and not `but` (regular expressions) mean `reason`.

    `what` says it in plain words where the line does not. `any_time`: it is believed of a run that
    had become ready too. `last`: only as the very last line, or from a shell that could not run a
    program; anywhere else it is said in passing. `memory` is whose.
    """

    reason: str
    says: str
    what: str = ""
    hint: str = ""
    but: str = ""
    permanent: bool | None = None
    any_time: bool = False
    last: bool = False
    memory: Literal["", "host", "gpu"] = ""

    def matches(self, line: str) -> bool:
        if re.search(self.says, line) is None:
            return False
        return not self.but or re.search(self.but, line) is None


_NO_MODE = "mend the permissions of that file, or of its folder"

RULES: tuple[Rule, ...] = (
    # --- its command -----------------------------------------------------------------------------
    Rule(
        reason="bad-flag",
        says=r"^error: (invalid argument|expected value for argument|--\S+ is required)"
        r"|while handling (argument|environment variable) \""
        r"|^Error: (unknown|invalid argument).* flag",
    ),
    Rule(
        reason="bad-flag",
        says=r"^error: the supplied chat template is not supported"
        r"|common_chat_templates_init: error: |chat template parsing error: ",
        what="the chat template cannot be used",
        hint="mend what `chat-template` or `chat-template-file` gives, or leave it out; "
        "`jinja: false` does without that of the model",
    ),
    # --- its program -----------------------------------------------------------------------------
    Rule(
        reason="binary-incompatible",
        says=r"error while loading shared libraries: |Error loading shared library ",
        what="a library of it is missing",
    ),
    Rule(
        reason="binary-incompatible",
        says=r"version `(GLIBC|GLIBCXX|CXXABI)[^']*' not found|symbol lookup error: ",
        what="it was made for another version of a library",
    ),
    Rule(
        reason="binary-incompatible",
        says=r"cannot execute binary file|Exec format error|xllamacpp cannot be loaded",
    ),
    Rule(reason="binary-incompatible", says=r"No module named ", last=True),
    Rule(
        reason="binary-missing",
        says=r"^/usr/bin/env: .*No such file|(^|: )exec: .*not found$",
        what="the script that starts it finds no program",
    ),
    # --- its port --------------------------------------------------------------------------------
    Rule(reason="port-taken", says=r"[Aa]ddress already in use"),
    Rule(
        reason="permission",
        says=r"(bind|listen).*[Pp]ermission denied",
        hint="ports below 1024 are for root: choose another",
    ),
    Rule(
        reason="address-unavailable",
        says=r"[Cc]annot assign requested address|couldn't bind HTTP server socket",
    ),
    # --- memory ----------------------------------------------------------------------------------
    Rule(
        reason="out-of-memory",
        says=r"(cudaMalloc|hipMalloc|musaMalloc) failed: |CUDA error: out of memory"
        r"|ROCm error: out of memory|ErrorOutOfDeviceMemory"
        r"|ggml_vulkan: Device memory allocation of size"
        r"|failed to allocate (CUDA|ROCm|MUSA|Vulkan|SYCL|Metal|OpenCL|CANN)\S* buffer"
        r"|unable to allocate (CUDA|ROCm|MUSA|Vulkan|SYCL|Metal|MTL|OpenCL|CANN)\S* buffer"
        r"|kIOGPUCommandBufferCallbackErrorOutOfMemory|ErrorInsufficientMemory",
        what="a GPU is out of memory",
        but="pinned memory|mlock",
        any_time=True,
        memory="gpu",
    ),
    Rule(
        reason="out-of-memory",
        says=r"insufficient memory \(attempted to allocate|failed to allocate CPU\S* buffer"
        r"|unable to allocate CPU\S* buffer|std::bad_alloc|[Cc]annot allocate memory"
        r"|^MemoryError|runtime: out of memory",
        what="memory was refused to it",
        but="pinned memory|mlock",
        any_time=True,
        memory="host",
    ),
    Rule(
        reason="out-of-memory",
        says=r"failed to allocate (compute \w+ buffers|buffer for (kv|rs) cache|buffer of size)",
        what="memory was refused to it",
    ),
    # --- its model -------------------------------------------------------------------------------
    Rule(
        reason="model-missing",
        says=r"failed to open GGUF file .*No such file|cannot read the model .*: No such file",
    ),
    Rule(
        reason="model-unreadable",
        says=r"failed to open GGUF file |cannot read the model ",
        hint=_NO_MODE,
    ),
    Rule(
        reason="unsupported-model",
        says=r"unknown model architecture|unknown (pre-)?tokenizer|unknown projector type"
        r"|this GGUF file is version \d+ but|GGUFv1 is no longer supported"
        r"|has invalid ggml type|unsupported model architecture",
    ),
    Rule(
        reason="unsupported-model",
        says=r"error loading model.*(check_tensor_dims|missing tensor|wrong number of tensors"
        r"|wrong shape|key not found in model|invalid vocab)",
        what="it lacks what this engine expects of its kind",
    ),
    Rule(
        reason="model-unreadable",
        says=r"is not within the file bounds|failed to read (magic|header|key-value pairs|tensor)"
        r"|tensor data is not|unexpectedly reached end of file",
        what="the model is damaged or incomplete",
    ),
    Rule(reason="model-unreadable", says=r"invalid magic", what="the model is no GGUF"),
    Rule(reason="model-unreadable", says=r"error loading model: ", permanent=False),
    # --- what else it may not --------------------------------------------------------------------
    Rule(
        reason="permission",
        says=r"^Error: .*(permission denied|not a directory|read-only file system)",
    ),
    Rule(reason="permission", says=r": Permission denied$", last=True),
)
