"""Every metric that is served: its name, kind, labels, and what it says.

The page of metrics is written from this table, and a sample that is not in it cannot be written.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["gauge", "counter", "histogram", "info"]


class Meaning(Struct, frozen=True):
    """One metric. `optional`: it is there only when there is something to say: then."""

    kind: Kind
    says: str
    labels: tuple[str, ...] = ()
    optional: str = ""


_INSTANCE = ("instance",)
_MODEL = ("instance", "model")
_PROFILE = ("profile", "file")
_RELAY = "asked for with `?relay=1`"
_ALIVE = "while its processes are seen"
_PULL = "while it is pulled or built"
_GATEWAY = "while a gateway runs"
_SERVED = "once one went through the gateway"
_NAMED = "of a client whose token has a name"

TABLE: dict[str, Meaning] = {
    "orchestrate_build_info": Meaning("info", "Always 1; the version of the daemon", ("version",)),
    "orchestrate_converged": Meaning(
        "gauge", "1 while what runs is what the applied files declare, and all of it is ready"
    ),
    "orchestrate_settled": Meaning(
        "gauge", "1 while nothing is on its way: what is not ready needs a change, or time"
    ),
    "orchestrate_warnings": Meaning("gauge", "Warnings that `orchestrate status` shows"),
    "orchestrate_state_saved": Meaning("gauge", "0 while the state cannot be saved"),
    "orchestrate_profile_ok": Meaning(
        "gauge", "0 while an applied file cannot be used, and its last good state counts", _PROFILE
    ),
    "orchestrate_profile_errors": Meaning("gauge", "Errors in an applied file", _PROFILE),
    "orchestrate_events_total": Meaning("counter", "What happened, by type of event", ("type",)),
    "orchestrate_reconcile_seconds": Meaning(
        "histogram", "What a pass of the reconciler took; its count is the number of passes"
    ),
    "orchestrate_convergence_seconds": Meaning(
        "histogram", "How long it was not so, each time that all became as declared"
    ),
    "orchestrate_memory_budget_bytes": Meaning(
        "gauge",
        "Memory that instances may have in all: the machine's, its control group's, or "
        "ORCHESTRATE_MEMORY",
        optional="where it can be read",
    ),
    "orchestrate_memory_free_bytes": Meaning(
        "gauge", "What is free of the machine's memory", optional="where it can be read"
    ),
    "orchestrate_gpu_memory_bytes": Meaning(
        "gauge", "Memory of a GPU", ("gpu",), optional="where an engine lists GPUs"
    ),
    "orchestrate_gpu_memory_free_bytes": Meaning(
        "gauge", "What is free of it", ("gpu",), optional="where an engine lists GPUs"
    ),
    "orchestrate_instance_info": Meaning(
        "info",
        "Always 1; what the instance is (`profiles` with commas between)",
        ("instance", "engine", "model", "profiles", "managed"),
    ),
    "orchestrate_instance_up": Meaning("gauge", "1 while it is ready", _INSTANCE),
    "orchestrate_instance_phase": Meaning(
        "gauge", "1 for the phase that it is in, 0 for the others", ("instance", "phase")
    ),
    "orchestrate_instance_reason": Meaning(
        "gauge", "1 for the reason of its phase", ("instance", "reason"), optional="with a reason"
    ),
    "orchestrate_instance_held": Meaning("gauge", "1 while it is stopped by hand", _INSTANCE),
    "orchestrate_instance_stale": Meaning(
        "gauge", "1 while its model or program is another on disk than the one that runs", _INSTANCE
    ),
    "orchestrate_instance_restarts_total": Meaning(
        "counter", "Restarts by its restart policy, by what had ended it", ("instance", "cause")
    ),
    "orchestrate_instance_ready_seconds": Meaning(
        "histogram",
        "What its starts took until it was ready",
        _INSTANCE,
        optional="once it has started under this daemon",
    ),
    "orchestrate_instance_last_ready_seconds": Meaning(
        "gauge",
        "What its last start took until it was ready",
        _INSTANCE,
        optional="once it was ready",
    ),
    "orchestrate_instance_start_time_seconds": Meaning(
        "gauge", "Unix time of its last start", _INSTANCE, optional=_ALIVE
    ),
    "orchestrate_instance_resident_memory_bytes": Meaning(
        "gauge", "Resident memory of all its processes", _INSTANCE, optional=_ALIVE
    ),
    "orchestrate_instance_cpu_seconds_total": Meaning(
        "counter", "CPU that all its processes have used", _INSTANCE, optional=_ALIVE
    ),
    "orchestrate_instance_alert": Meaning(
        "gauge", "1 while it passes a limit, or its memory leaks", ("instance", "alert")
    ),
    "orchestrate_instance_health": Meaning(
        "gauge",
        "1 for what the last probe by inference found, 0 for the others",
        ("instance", "class"),
        optional="with `liveness: {mode: inference}`",
    ),
    "orchestrate_instance_probe_seconds": Meaning(
        "gauge",
        "What the last probe by inference took",
        _INSTANCE,
        optional="with `liveness: {mode: inference}`",
    ),
    "orchestrate_instance_model_state": Meaning(
        "gauge",
        "1 for the state that a declared model of an Ollama is in, 0 for the others",
        ("instance", "model", "state"),
        optional="of an Ollama with `models:`",
    ),
    "orchestrate_instance_model_loaded": Meaning(
        "gauge",
        "1 while a declared model is in the memory of its Ollama",
        _MODEL,
        optional="of an Ollama with `models:`",
    ),
    "orchestrate_instance_model_done_bytes": Meaning(
        "gauge", "Bytes that are there of a model on its way", _MODEL, optional=_PULL
    ),
    "orchestrate_instance_model_size_bytes": Meaning(
        "gauge", "Bytes of a model on its way, as far as they are known", _MODEL, optional=_PULL
    ),
    "orchestrate_gateway_up": Meaning(
        "gauge", "1 while the gateway is ready", optional="where an applied file has a `gateway:`"
    ),
    "orchestrate_gateway_in_flight": Meaning(
        "gauge", "Requests that it works on now", _INSTANCE, optional=_GATEWAY
    ),
    "orchestrate_gateway_waiting": Meaning(
        "gauge",
        "Requests that wait for it; one that could go to several waits for each",
        _INSTANCE,
        optional=_GATEWAY,
    ),
    "orchestrate_gateway_requests_total": Meaning(
        "counter",
        "Requests that it answered, by class of status; `lost` where it broke off in the middle, "
        "`gone` where the client did",
        ("instance", "outcome"),
        optional=_GATEWAY,
    ),
    "orchestrate_gateway_own_answers_total": Meaning(
        "counter",
        "Answers of the gateway itself: lists, refusals, and that nobody could serve",
        ("code",),
        optional=_GATEWAY,
    ),
    "orchestrate_gateway_retries_total": Meaning(
        "counter",
        "Requests that were sent once more, for it broke off before it had said anything",
        _INSTANCE,
        optional=_GATEWAY,
    ),
    "orchestrate_gateway_sent_bytes_total": Meaning(
        "counter", "Bytes of its answers", _INSTANCE, optional=_GATEWAY
    ),
    "orchestrate_gateway_tokens_total": Meaning(
        "counter",
        "Tokens, `prompt` or `generated`, as it counted them itself",
        ("instance", "kind"),
        optional=_GATEWAY,
    ),
    "orchestrate_gateway_first_token_seconds": Meaning(
        "histogram",
        "From a request to the first token of an answer that is streamed, waiting included",
        _INSTANCE,
        optional=_SERVED,
    ),
    "orchestrate_gateway_request_seconds": Meaning(
        "histogram", "From a request to the end of its answer", _INSTANCE, optional=_SERVED
    ),
    "orchestrate_gateway_model_requests_total": Meaning(
        "counter",
        "Requests by the name that clients asked for; `other` for what nothing is called",
        ("model",),
        optional=_GATEWAY,
    ),
    "orchestrate_gateway_fallbacks_total": Meaning(
        "counter",
        "Of these, those that something else than was asked for has answered",
        ("model",),
        optional=_GATEWAY,
    ),
    "orchestrate_gateway_client_requests_total": Meaning(
        "counter", "Requests by who asked", ("client",), optional=_NAMED
    ),
    "orchestrate_gateway_client_tokens_total": Meaning(
        "counter",
        "Tokens by who asked, `prompt` or `generated`",
        ("client", "kind"),
        optional=_NAMED,
    ),
    "orchestrate_relay_up": Meaning(
        "gauge", "1 where the engine answered for its own metrics", _INSTANCE, optional=_RELAY
    ),
    "orchestrate_ollama_model_memory_bytes": Meaning(
        "gauge", "Memory of a model that an Ollama has loaded", _MODEL, optional=_RELAY
    ),
    "orchestrate_ollama_model_gpu_memory_bytes": Meaning(
        "gauge", "How much of it is on GPUs", _MODEL, optional=_RELAY
    ),
}
