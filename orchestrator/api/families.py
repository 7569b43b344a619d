"""The metrics of this moment, as Prometheus's own client has them: from the status document, so
that both say the same, and from what was counted.

Loaded with the first scrape, for the client is a heavy import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import partial
from typing import Any, cast, get_args

from msgspec import Struct
from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.samples import Sample

from orchestrator.api import traffic_families
from orchestrator.api.metric_table import TABLE
from orchestrator.api.relay import Relayed
from orchestrator.control.tally import Spread, Tally
from orchestrator.core.admission import HOST, Budget
from orchestrator.core.alerts import AlertKind
from orchestrator.core.figures import Figures
from orchestrator.core.status import ModelState, Observed, Phase

PHASES = ("pending", *(phase.value for phase in Phase))
ALERTS: tuple[str, ...] = get_args(AlertKind)
CLASSES = ("healthy", "slow", "down")
CAUSES = ("crashed", "hung", "memory-limit", "out-of-memory", "timeout")
"""What ends an instance that ran: counted from 0, so that the first restart is seen as one."""

SLICE = 50
"""Samples that are written at a time: half a millisecond or so."""

END = b"# EOF\n"
"""The last line of OpenMetrics."""

Encoder = Callable[[Any], bytes]

_UNITS = ("seconds", "bytes")


class Sheet:
    """Metrics, in the order of the table, then those of engines."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        for name, meaning in TABLE.items():
            metric = self._metrics[name] = _metric(name, meaning.says, meaning.kind)
            metric.unit = next((u for u in _UNITS if metric.name.endswith(f"_{u}")), "")

    def put(self, name: str, value: float, *labels: str) -> None:
        """One sample, with the labels of the table."""
        named = {key: _inert(label) for key, label in zip(TABLE[name].labels, labels, strict=True)}
        self._metrics[name].samples.append(Sample(name, named, value))

    def put_states(self, name: str, states: tuple[str, ...], state: str, *labels: str) -> None:
        """1 for the state that it is in, be it a known one or not, and 0 for the others."""
        for one in states if state in states else (*states, state):
            self.put(name, float(one == state), *labels, one)

    def put_spread(self, name: str, spread: Spread, *labels: str) -> None:
        """The three kinds of samples of a histogram."""
        keys = TABLE[name].labels
        named = {key: _inert(label) for key, label in zip(keys, labels, strict=True)}
        samples = self._metrics[name].samples
        for bound, count in spread.steps():
            le = "+Inf" if bound == float("inf") else str(bound)
            samples.append(Sample(f"{name}_bucket", {**named, "le": le}, count))
        samples.append(Sample(f"{name}_count", named, spread.count))
        samples.append(Sample(f"{name}_sum", named, spread.total))

    def put_relayed(self, relayed: Relayed) -> None:
        """What engines said, and what they did not."""
        for instance, answered in relayed.answered.items():
            self.put("orchestrate_relay_up", float(answered), instance)
        for one in relayed.loaded:
            where = (one.instance, one.model)
            self.put("orchestrate_ollama_model_memory_bytes", one.memory, *where)
            self.put("orchestrate_ollama_model_gpu_memory_bytes", one.gpu_memory, *where)
        for name, theirs in relayed.metrics.items():
            metric = _metric(name, _inert(theirs.says), theirs.kind)
            for instance, labels, value in theirs.samples:
                shown = {key: _inert(label) for key, label in labels.items()}
                metric.samples.append(Sample(name, {**shown, "instance": _inert(instance)}, value))
            self._metrics[name] = metric

    def metrics(self) -> Iterator[Metric]:
        """Those of which there is something to say, and those of this process."""
        yield from (metric for metric in self._metrics.values() if metric.samples)
        yield from ProcessCollector(registry=None).collect()


def _metric(name: str, says: str, kind: str) -> Metric:
    base = name
    if kind in ("counter", "info"):
        base = name.removesuffix("_total" if kind == "counter" else "_info")
    return Metric(base, says, kind)


def _inert(label: str) -> str:
    """Without what is no character, or would act on a terminal; a name may hold anything."""
    if label.isprintable():
        return label
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in label
    )


class Moment(Struct, frozen=True):
    """What a scrape is about: the document of `status --json`, and what it does not say.

    `boot_time` is the wall clock's at the start of the boot clock, one for all scrapes, so that no
    start seems to move. `figures` is what the gateway told last.
    """

    document: Mapping[str, Any]
    observed: Observed
    tally: Tally
    budget: Budget | None
    saved: bool
    boot_time: float
    figures: Figures | None = None


def filled(sheet: Sheet, moment: Moment) -> Iterator[None]:
    """Put all but what engines say onto the sheet, in small steps."""
    _put_whole(sheet, moment)
    _put_rooms(sheet, moment.budget)
    yield from traffic_families.filled(sheet, moment.document, moment.figures)
    for row in moment.document["instances"]:
        yield
        _put_instance(sheet, row)
        _put_usage(sheet, row, moment)
        _put_counts(sheet, row["name"], moment.tally)
        _put_models(sheet, row)


def _put_whole(sheet: Sheet, moment: Moment) -> None:
    document, tally = moment.document, moment.tally
    sheet.put("orchestrate_build_info", 1.0, document["version"])
    sheet.put("orchestrate_converged", float(document["converged"]))
    sheet.put("orchestrate_settled", float(document["settled"]))
    sheet.put("orchestrate_warnings", len(document["warnings"]))
    sheet.put("orchestrate_state_saved", float(moment.saved))
    for profile in document["profiles"]:
        where = (profile["name"], profile["file"])
        sheet.put("orchestrate_profile_ok", float(profile["ok"]), *where)
        sheet.put("orchestrate_profile_errors", len(profile["errors"]), *where)
    for kind, count in tally.events.items():
        sheet.put("orchestrate_events_total", count, kind.value)
    sheet.put_spread("orchestrate_reconcile_seconds", tally.passes)
    sheet.put_spread("orchestrate_convergence_seconds", tally.convergences)


def _put_rooms(sheet: Sheet, budget: Budget | None) -> None:
    for place, room in budget.rooms.items() if budget is not None else ():
        if place == HOST:
            sheet.put("orchestrate_memory_budget_bytes", room.total)
            sheet.put("orchestrate_memory_free_bytes", room.free)
        else:
            sheet.put("orchestrate_gpu_memory_bytes", room.total, str(place))
            sheet.put("orchestrate_gpu_memory_free_bytes", room.free, str(place))


def _put_instance(sheet: Sheet, row: Mapping[str, Any]) -> None:
    name: str = row["name"]
    profiles, managed = ",".join(row["profiles"]), str(row["managed"]).lower()
    what = (name, row["engine"], row["model"], profiles, managed)
    sheet.put("orchestrate_instance_info", 1.0, *what)
    sheet.put("orchestrate_instance_up", float(row["phase"] == Phase.READY), name)
    sheet.put_states("orchestrate_instance_phase", PHASES, row["phase"], name)
    if row["reason"]:
        sheet.put("orchestrate_instance_reason", 1.0, name, row["reason"])
    sheet.put("orchestrate_instance_held", float(row["held"]), name)
    sheet.put("orchestrate_instance_stale", float(row["stale"]), name)
    raised = {one["alert"] for one in row["alerts"]}
    for alert in (*ALERTS, *sorted(raised.difference(ALERTS))):
        sheet.put("orchestrate_instance_alert", float(alert in raised), name, alert)
    if row["health"] is not None:
        sheet.put_states("orchestrate_instance_health", CLASSES, row["health"]["class"], name)
        sheet.put("orchestrate_instance_probe_seconds", row["health"]["latency_s"], name)


def _put_usage(sheet: Sheet, row: Mapping[str, Any], moment: Moment) -> None:
    name: str = row["name"]
    status = moment.observed.get(name)
    started_at = status.started_at if status is not None else None
    if row["uptime_s"] is not None and started_at is not None:
        began = round(moment.boot_time + started_at, 3)
        sheet.put("orchestrate_instance_start_time_seconds", began, name)
    # Of a server that was attached to, the process may not be visible.
    if row["pid"] is not None:
        memory, cpu = row["memory_bytes"], row["cpu_seconds"]
        sheet.put("orchestrate_instance_resident_memory_bytes", memory, name)
        sheet.put("orchestrate_instance_cpu_seconds_total", cpu, name)
    if row["ready_after_s"] is not None:
        sheet.put("orchestrate_instance_last_ready_seconds", row["ready_after_s"], name)


def _put_counts(sheet: Sheet, name: str, tally: Tally) -> None:
    counted = tally.instances.get(name)
    restarts: Mapping[str, int] = {} if counted is None else counted.restarts
    for cause in (*CAUSES, *sorted(set(restarts).difference(CAUSES))):
        sheet.put("orchestrate_instance_restarts_total", restarts.get(cause, 0), name, cause)
    if counted is not None and counted.starts.count:
        sheet.put_spread("orchestrate_instance_ready_seconds", counted.starts, name)


def _put_models(sheet: Sheet, row: Mapping[str, Any]) -> None:
    states = tuple(state.value for state in ModelState)
    for model in row["models"]:
        which = (row["name"], model["name"])
        sheet.put_states("orchestrate_instance_model_state", states, model["state"], *which)
        sheet.put("orchestrate_instance_model_loaded", float(model["loaded"]), *which)
        if model["state"] in (ModelState.PULLING, ModelState.BUILDING):
            sheet.put("orchestrate_instance_model_done_bytes", model["bytes_done"], *which)
            sheet.put("orchestrate_instance_model_size_bytes", model["bytes_total"], *which)


class _Part(Struct, frozen=True):
    """What an encoder takes for a registry: one metric, or a part of one."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric


def written(metrics: Iterable[Metric], accept: str) -> tuple[Iterator[bytes], str]:
    """The metrics in small parts, and their content type: OpenMetrics where that is accepted."""
    try:
        chosen, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # It asks for a version that is none.
        chosen, content_type = choose_encoder("")
    # No name here needs to be escaped; but told to, the client takes the colons out of those of
    # llama-server, and in one of the two formats only.
    encode: Encoder = partial(cast(Callable[..., bytes], chosen), escaping=ALLOWUTF8)
    return _parts(metrics, encode, ends="openmetrics" in content_type), content_type


def _parts(metrics: Iterable[Metric], encode: Encoder, *, ends: bool) -> Iterator[bytes]:
    for metric in metrics:
        samples = metric.samples
        for begin in range(0, len(samples), SLICE):
            part = copy(metric)
            part.samples = samples[begin : begin + SLICE]
            text = encode(_Part(part))
            if ends:
                text = text.removesuffix(END)
            while begin and text.startswith(b"# "):
                # What the metric is was said before its first samples.
                text = text.partition(b"\n")[2]
            yield text
    if ends:
        yield END
