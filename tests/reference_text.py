"""The prose of `docs/reference.md`: what each word means. The words themselves are the code's.

`reference.py` checks every table here against the code: a word too many or too few is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class DiffersError(Exception):
    """The prose and the code do not name the same words."""


def same(in_code: Iterable[str | int], in_prose: Mapping[Any, str], what: str) -> None:
    """Raises `DiffersError` unless the code and the prose have the same words."""
    code, prose = {str(one) for one in in_code}, {str(one) for one in in_prose}
    if code != prose:
        missing, gone = sorted(code - prose), sorted(prose - code)
        raise DiffersError(f"{what}: not described {missing}, not in the code {gone}")


HEAD = """\
# Reference

What scripts, editors and people may rely on. This page is made from the code by
`python tests/reference.py --write`, and a test fails when the two differ.

`orchestrate` is the console script; `python -m orchestrator` is the same. Data goes to stdout,
diagnostics to stderr. With `--json` there is one JSON document on stdout and nothing else (`apply
--json`, `events --json` and `status --watch --json`: one on each line). Colour is for terminals
only, and `NO_COLOR` turns it off. How profiles are written is told, by examples, in [Writing
profiles](profiles.md).
"""

FILES_AND_NAMES = """\
`FILE|DIR|NAME` is a profile file, a folder of them, or the name of one in `ORCHESTRATE_PROFILES`
(without `.yaml`). `NAME` alone is an instance. `REF` is a model: a path, a file name with or
without `.gguf`, `name:quant`, an Ollama tag, or `hf:org/name[:quant|/file]`. Durations are written
as in `90s`, `1m30s` or `2h`.
"""

EXIT_CODES = {
    0: "done",
    1: "something did not come up, or failed while running",
    2: "the input is wrong: a profile, an argument, an unknown instance or model. "
    "Nothing was touched",
    3: "no daemon answers, or it may not be talked to. `status` and `logs` still print what the "
    'store knows, `status --json` with `"daemon": null`',
    4: "timed out",
    130: "interrupted. The daemon goes on",
}

EXIT_NOTES = """\
- `apply` ends with 0 once all is ready, models included, and with 1 once everything has settled
  and something has not come up: it is `failed` or in `backoff`, a model has failed, or a later
  `apply` came in between. Ctrl-C only detaches. `--timeout` never fires while bytes of a pull or a
  build move.
- `status` exits 0, or 3 without a daemon; `status --check` exits 1 unless converged. `wait` exits
  1 as soon as one instance, or one of its models, has failed. `start`, `stop`, `restart` and
  `kill` wait for the outcome: that of the instance, not of its models.
- `down` and `daemon stop` exit 0 when nothing is running. `doctor` exits 1 when a problem would
  keep `apply` from working, `init` when it finds no model and no Ollama, `import` when nothing of
  what it reads can be run here.
- An error is two lines on stderr, `error: what, where` and `hint: what to do`; a Python traceback
  only with `ORCHESTRATE_DEBUG=1`.

A mistake in a profile names its place, lines and columns counted from 1, with the source line and
a caret below it. All mistakes of all files are shown at once.
"""

ENVIRONMENT = {
    "ORCHESTRATE_STATE_DIR": "State, control socket and logs; one daemon for each such folder. "
    "Default: the platform's state folder.",
    "ORCHESTRATE_CACHE_DIR": "What is remembered of model files, flags, and of what models were "
    "made of; it may be deleted, and is found out or made again. "
    "Default: the platform's cache folder.",
    "ORCHESTRATE_PROFILES": "Where the NAME of a profile is looked up. Default: `./profiles`.",
    "ORCHESTRATE_MODELS": "More folders with models, separated by `:`.",
    "ORCHESTRATE_MEMORY": "The memory that all instances together may be planned for, as in "
    "`24GiB`: less than the machine, or its control group, has.",
    "ORCHESTRATE_LLAMA_SERVER": "The llama-server to run: a path, a name on `PATH`, or `embedded`.",
    "ORCHESTRATE_OLLAMA": "The Ollama to run: a path, or a name on `PATH`.",
    "ORCHESTRATE_HOST": "The address that instances listen on by default. Default: `127.0.0.1`.",
    "ORCHESTRATE_THREADS": "The threads that a llama-server gets whose profile does not say: a "
    "number, or `quota` for as many as there are CPUs for it here (the container image's default). "
    "Default: the engine's own, which counts the machine's cores.",
    "ORCHESTRATE_LISTEN": "Where the control API is served over TCP: `HOST:PORT`, `[::1]:PORT`, or "
    "on loopback `:PORT` or `PORT`. Default: nowhere.",
    "ORCHESTRATE_TOKEN": "The bearer token of the control API over TCP. Default: one is made, and "
    "kept as `token` in the state folder.",
    "ORCHESTRATE_HOSTS": "Names by which the control API may be asked over TCP, besides addresses, "
    "`localhost` and this machine's own name: of a reverse proxy, of a service. Separated by `,`.",
    "ORCHESTRATE_DEBUG": "`1` shows where an error comes from.",
}

OTHERS = {
    "OLLAMA_MODELS": "Ollama's store: models are found there, and Ollama instances keep theirs "
    "there unless `settings: {models: ...}` names another.",
    "OLLAMA_HOST": "Where `doctor`, `init`, `models pull`, `models rm` and `models prune` look for "
    "an Ollama that runs. Default: `127.0.0.1:11434`.",
    "HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME": "Hugging Face's cache.",
    "LLAMA_CACHE": "llama.cpp's cache. The one variable of an engine that instances inherit.",
    "XDG_CACHE_HOME": "Where both caches are when they are not named.",
    "NO_COLOR": "No colour, on terminals too.",
}

ENVIRONMENT_NOTES = """\
`apply` hands over to the daemon what of these names models and programs, with `PATH`, `HOME` and
every variable that a profile refers to as `${env:NAME}`: what counts is the shell that applied, not
the one that the daemon was started from. `LLAMA_*`, `MTMD_*` and `OLLAMA_*` never reach an engine
by inheritance, for they change it silently: an instance gets what its `env:` says, an Ollama its
`settings:`, and with them always `OLLAMA_HOST`, `OLLAMA_MODELS` and `OLLAMA_NOPRUNE`.
"""

FILES = {
    "control.sock": "where the daemon listens",
    "daemon.log": "the daemon's own log (`orchestrate logs --daemon`)",
    "daemon.lock": "held by the one daemon of this folder, whose pid it contains",
    "state.db": "what is applied, what runs, sticky ports, the timeline (SQLite)",
    "token": "the token of the control API over TCP, once one was needed and none was given",
    "logs/NAME.log": "the output of an instance; `.1` and so on are earlier runs",
}

PHASES = {
    "pending": "declared, but not started yet: it waits for what `message` says",
    "starting": "started, and not ready yet",
    "ready": "its health check answers, on a port that its own processes hold, or from the server "
    "that it is attached to",
    "unready": "was ready, does not answer now, and is not restarted yet",
    "backoff": "ended by itself, or could not be started; tried again at the time that "
    "`retry_in_s` says",
    "stopping": "told to end",
    "stopped": "ended, and meant to be: held by hand, on demand and idle, or it had no reason to "
    "go on",
    "failed": "given up until its declaration changes, or what it failed for is mended (see [When "
    "something fails](troubleshooting.md)), or `start`, `restart` or `apply`",
}

REASONS = {
    "address-unavailable": "the address to listen on is none of this machine",
    "bad-flag": "the engine does not take a flag, or its value",
    "binary-incompatible": "the program cannot run here: made for another machine, or a library or "
    "an interpreter of it is missing",
    "binary-missing": "the program has gone since the profile was checked; or no server is there "
    "to attach to, and no Ollama that could be started: then it waits until one comes",
    "blocked": "it waits for what it `needs`, for a model that an Ollama instance is to bring, or "
    "for an instance of ours that still has its port",
    "crashed": "it ended by itself",
    "exited": "it ended by itself, without an error, and its policy leaves it so",
    "folder-missing": "the folder to run in cannot be entered",
    "gone": "the server that it was attached to does not answer any more",
    "held": "stopped by hand; `start`, `restart` or `apply` release it",
    "idle": "it runs on demand, and nobody asks for it: that is as declared",
    "hung": "it failed its liveness probes, and is ended",
    "too-many-files": "the daemon may open no more files: it looks again every second or two",
    "log-unwritable": "its log cannot be written",
    "memory-limit": "it took more memory than its `limits:` allow, and is ended",
    "model-missing": "its model file is not there",
    "model-unreadable": "its model file is damaged, incomplete, no GGUF, or may not be read",
    "nothing-to-attach": "`attach: only`, and no server is there; it waits until one comes",
    "out-of-memory": "the machine, its control group or a GPU has not enough memory",
    "permission": "the program may not be run, or may not use what it needs",
    "port-taken": "a process that is not ours listens on its port: `message` names it",
    "rolled-back": "its last change did not come up: what was ready before runs, until the change "
    "is another, or somebody says `apply` or `restart`",
    "removed": "no applied profile declares it any more",
    "unsupported-model": "the engine cannot run models of that kind",
    "timeout": "it made no progress while it loaded, or was not ready by its deadline",
    "unhealthy": "its last liveness probe failed; or whoever listens where it was attached is no "
    "Ollama now",
}

EVENT_REASONS = {
    "apply": "an `apply` asked for it",
    "as-declared": "what was rejected is not declared any more",
    "asked": "somebody asked for it",
    "back": "the server that it was attached to answers again",
    "changed": "its declaration has changed",
    "cpu": "of an alert: it computes more than its `limits:` warn of",
    "down": "a probe by inference found nothing generated in time, or an error",
    "edited": "an applied file was saved",
    "fallbacks": "of an alert: a fallback serves more requests than the gateway warns of",
    "healthy": "a probe by inference found a token generated in time",
    "invalid": "an applied file cannot be used; its last good state is kept",
    "kill": "`orchestrate kill` asked for it",
    "killed": "without further grace",
    "leak": "of an alert: its memory grows steadily",
    "memory": "of an alert: it takes more memory than its `limits:` warn of",
    "replaced": "its declaration has changed: a new process takes its place",
    "request": "a request asked for it",
    "restart": "once more, by hand or by its restart policy",
    "restarts": "of an alert: it was restarted more often than its `limits:` warn of",
    "set-aside": "the store could not be read; another was begun",
    "slow": "a probe by inference found a token generated late, or a server that is busy",
    "steady": "a probe by inference found what the one before it did",
    "superseded": "of a successor that was to be started first: it is not to follow any more",
    "unkillable": "the kernel does not let go of it",
    "version": "the server that it is attached to is of another version than before",
}

EVENTS = {
    "starting": "a start was decided, and recorded",
    "spawned": "its process exists",
    "progress": "it loads (shown live, not kept)",
    "ready": "it serves",
    "unready": "it does not answer any more",
    "condemned": "it must be ended: hung, or not ready in time",
    "stopping": "it was told to end",
    "killing": "it is killed, with its group",
    "exited": "its processes are gone",
    "start-failed": "no process came of a start; while it waits for the same thing, further tries "
    "have `data.again` and are not kept",
    "adopted": "a new daemon found it running, and looks after it",
    "held": "stopped by hand",
    "released": "not held any more",
    "redo": "a new process was asked for",
    "updated": "settings that do not reach the process were taken up in place",
    "attached": "a server that somebody else runs is used",
    "detached": "it is not used any more: let go of, or gone",
    "model": "a model of an Ollama instance is seen otherwise; `data.model` is its row",
    "model-progress": "a model is seen otherwise, or its bytes move (streamed as JSON, not kept)",
    "look": "its models are looked at now, as an `apply` asks for (streamed as JSON, not kept)",
    "looked": "its models were looked at (streamed as JSON, not kept)",
    "health": "what a probe by inference found: `data.class` and `data.latency_s`; with the reason "
    "`steady`, and not kept, when the class is as before",
    "alert": "it passes a limit, its memory grows steadily, or the gateway falls back often: "
    "`data.alert` says which",
    "alert-over": "that has passed",
    "mended": "what it failed for, or waited for, is otherwise now: it is tried again at once",
    "promoted": "its successor is ready and has taken its place: until then that was called "
    "`NAME~next`, and from now on what ran before is `NAME~old`, which ends",
    "wanted": "a request waits for one that runs on demand; while it is on its way already, not "
    "kept",
    "idle": "nobody has used one that runs on demand for as long as its `idle` says",
    "forgotten": "it is no longer declared, and gone",
    "applied": "profiles were applied, or an applied file was saved",
    "profile-error": "an applied file cannot be used",
    "profile-ok": "it can be used again",
    "converged": "what runs is what is declared, and all of it is ready",
    "daemon-started": "a daemon looks after the state folder now",
    "stalled": "the daemon's loop did not turn for so long: `data.stack` says where",
    "daemon-stopped": "it ended as it was told to; the message says what goes on",
    "swept": "processes that an earlier daemon left behind were ended",
    "store-error": "state cannot be saved; instances go on",
    "store-ok": "it can be saved again",
    "bug": "something that should not happen; please report it",
}

ACTIONS = {
    "start": "a new process",
    "stop": "it is no longer declared, or held",
    "kill": "stop, without grace",
    "replace": "stop, then start with the new settings",
    "update": "taken up by the running process's daemon: restart policy, probes, description",
    "promote": "its successor, which is ready, takes its place (only ever a moment; `start-first` "
    "is shown as `replace`)",
    "provision": "the same, and its models are brought to what is declared: pulled, built, "
    "unloaded",
}

STATUS = {
    "version": "of the daemon",
    "daemon": "its `pid` and `since` when; null when none answers",
    "profiles": "the applied files; `errors` are as in `validate --json`",
    "converged": "what runs is what the applied files declare, and all of it is ready: declared "
    "models are present, preloaded ones in memory",
    "settled": "nothing is on its way: what is not ready now needs a change, or time",
    "missing": "for each instance that is not ready as declared, why",
    "warnings": "what people should know, such as a full disk",
    "gateway": "the row of the gateway, with the keys of an instance and `names`; null where none "
    "is declared",
    "instances": "one for each, declared ones first",
    "applied": "which of this daemon's applied sets all this is about: `apply` tells the number of "
    "its own. An edit stays within one; 0 without a daemon",
}

REQUESTS = {
    "in_flight": "requests that it is working on",
    "waiting": "requests that wait for it in the gateway",
    "requests": "those that are over, since the gateway began",
    "failures": "of these, those that were answered by an error of the server, or broke off",
    "retries": "times that it broke off before it had said anything, and a request was sent again",
    "fallbacks": "of these, those for which something else had been asked",
    "bytes": "that it has answered with",
    "prompt_tokens": "tokens of prompts, with those that it had in its cache, as it says itself",
    "generated_tokens": "tokens that it has generated, as it says itself; where it says nothing, "
    "or somebody broke off, the events of a stream are counted",
    "tokens_s": "tokens that it generates a second, over the last ten seconds",
    "outcomes": "requests by class of status, as in `2xx`; `lost` where it broke off in the "
    "middle, `gone` where the client did",
    "first_token_s": "median of the last minute, from a request to the first token of a stream, "
    "waiting included; null where there was none",
    "first_token_p95_s": "what 95 % of them took at most",
    "request_s": "median of the last minute, from a request to the end of its answer",
    "request_p95_s": "what 95 % of them took at most",
    "used_at": "when it was used last, in seconds since the machine was started",
}

WHOLE = {
    "requests_s": "requests a second, over the last ten seconds",
    "lately": "of the last five minutes: `requests`, and how many of them are `failures` or "
    "`fallbacks`",
}
"""Beside these, of the gateway's own row."""

NAMED = {
    "name": "what clients may ask for",
    "instances": "who serves it",
    "ready": "which of them do so now",
    "fallback": "what is tried when they cannot",
    "requests": "those for it that are over, since the gateway began",
    "failures": "of these, those that failed",
    "fallbacks": "of these, those that a fallback has answered",
    "prompt_tokens": "as above",
    "generated_tokens": "as above",
    "recent": "the share of the last hundred requests within five minutes that a fallback has "
    "answered; null where they are fewer than ten",
}

LOGGED = {
    "time": "when the answer had ended",
    "id": "the client's own `x-request-id`, or one of the gateway",
    "client": "what it calls itself (`x-client-id`), the name of its token, or its address",
    "method": "of HTTP",
    "path": "without its query",
    "model": "what was asked for; empty where nothing is called so",
    "instance": "who answered; empty for the gateway itself",
    "status": "of HTTP; 499 where the client had gone before there was any",
    "ms": "from the request to the end of the answer",
    "first_byte_ms": "to the first byte of the answer's body",
    "waited_ms": "of this, for a slot or for an instance on its way up",
    "prompt_tokens": "as the instance says; null where it says nothing",
    "generated_tokens": "likewise; where somebody broke off, the events of its stream",
    "bytes": "of the answer's body",
    "retries": "times that it was sent again",
    "fallbacks": "how many of the names before this one could not serve",
    "lost": "true where the instance broke off in the middle; else not there",
    "gone": "true where the client did; else not there",
    "content": "the beginning of what was asked, with `log: {content: true}`; else not there",
}

INSTANCE = {
    "name": "as in the profile",
    "engine": "`llama-server` or `ollama`",
    "profiles": "the applied profiles that declare it",
    "model": "as the profile names it; empty for Ollama",
    "description": "as in the profile",
    "host": "what it listens on",
    "port": "what it listens on",
    "url": "where to reach it from this machine",
    "phase": "see below",
    "reason": "one word, see below; empty when there is none",
    "message": "for people",
    "managed": "false for a server that was attached to",
    "pid": "null without a process, or where that of an attached server is not to be seen",
    "since": "when it came into this phase",
    "uptime_s": "seconds since its start",
    "ready_after_s": "seconds from its start to its first readiness",
    "restarts": "by the restart policy, since it was declared; tries of what only waits are none",
    "memory_bytes": "resident, summed over its process group; of an attached server, with all that "
    "descends from it",
    "cpu_percent": "of one core, summed over the same processes",
    "cpu_seconds": "of CPU since its start, summed over the same processes",
    "health": "with `liveness: {mode: inference}` the `class` (`healthy`, `slow`, `down`) and the "
    "`latency_s` of the last probe, else null",
    "alerts": "what somebody should know, as long as it is so: `alert` (`memory`, `cpu`, "
    "`restarts`, `leak`; of the gateway `fallbacks`) and `message`",
    "stale": "its model or program changed on disk: taken up by the next apply or restart",
    "command": "argv, secrets masked",
    "replica_of": "what the profile calls it and its like together; empty for what stands alone",
    "requests": "what goes through the gateway to it; null where nothing is known of that",
    "models": "of an Ollama instance, declared ones first; empty for llama-server",
    "lacking": "for each declared model that is not as declared, what is lacking",
    "owner": "whose the server is that was attached to; empty for our own",
    "held": "stopped by hand",
    "exit_code": "of the last run; null when unknown",
    "retry_in_s": "seconds until the next start, in `backoff`",
}

MODEL = {
    "name": "as Ollama shows it, with its tag",
    "state": "see below",
    "loaded": "in the memory of its server",
    "bytes_done": "of what is under way",
    "bytes_total": "of what is under way; 0 while that is not known",
    "reason": "one word, see below; empty when there is none",
    "message": "for people",
}

MODEL_STATES = {
    "missing": "declared, and not there; nothing is done about it yet",
    "pulling": "it comes from its registry",
    "building": "it is made: by a Modelfile, from a GGUF, or as a copy",
    "present": "its server has it, as declared",
    "failed": "given up for now; what may mend itself is tried again each minute, the rest once "
    "its declaration changes, or by an `apply`. `message` says why",
}

MODEL_REASONS = {
    "pulled": "it came from its registry",
    "made": "it was made from its GGUF",
    "built": "it was built by its Modelfile",
    "copied": "it is the copy that was declared",
    "loaded": "it is in memory now",
    "kept": "a request had shortened its stay in memory, which was set again",
    "rested": "it left memory after its `keep_alive`, as declared",
    "unloaded": "somebody took it out of memory; a preloaded one is loaded again",
    "evicted": "another model needed its place in memory; it comes back when there is room",
    "vanished": "somebody removed it; it is pulled or built again",
    "corrupt": "a file of it is damaged or gone; it is pulled or built again where that can be",
    "gone": "it is not declared any more: unloaded, or deleted where the instance prunes",
    "failed": "it was given up; its own reason is one of those below",
    "not-found": "its registry does not know it",
    "unauthorized": "its registry wants a login",
    "no-tls": "its registry speaks no TLS: `insecure: true`",
    "bad-certificate": "the certificate of its registry is not trusted",
    "pull-failed": "it could not be pulled",
    "import-failed": "it could not be made from its GGUF",
    "build-failed": "it could not be built by its Modelfile",
    "copy-failed": "it could not be copied",
    "load-failed": "it could not be loaded",
    "base-failed": "the model that it stands on has failed",
    "drop-refused": "it is not declared any more, and its server refuses to let go of it",
    "base-missing": "the model that it is a copy of is not there",
    "disk-full": "the disk of its store is full; tried again from time to time",
    "store-unwritable": "its store cannot be written",
    "too-old": "it needs a newer Ollama",
    "unsupported": "this Ollama cannot run it",
    "bug": "something that should not happen; please report it",
}
