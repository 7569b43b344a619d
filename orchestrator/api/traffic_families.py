"""The metrics of the gateway: what it told last, since it began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.control.tally import Spread
from orchestrator.core.figures import Figures, InstanceFigures, NameFigures
from orchestrator.core.figures import Spread as Told

if TYPE_CHECKING:
    from orchestrator.api.families import Sheet

OUTCOMES = ("2xx", "4xx", "5xx", "lost", "gone")
"""What may become of a request: counted from 0, so that the first of each is seen as one."""

OTHER = "other"
"""Under this the gateway counts what nothing is called."""

OWN = ("404", "429", "502", "503", "504")
"""Answers of the gateway itself, likewise."""


def filled(sheet: Sheet, document: Mapping[str, Any], figures: Figures | None) -> Iterator[None]:
    """Put what there is of a gateway onto the sheet, in small steps."""
    if document["gateway"] is None:
        return
    sheet.put("orchestrate_gateway_up", float(document["gateway"]["phase"] == "ready"))
    if figures is None:
        return
    for code in (*OWN, *sorted(set(figures.own).difference(OWN))):
        sheet.put("orchestrate_gateway_own_answers_total", figures.own.get(code, 0), code)
    for name, row in figures.instances.items():
        yield
        _put_instance(sheet, name, row)
        _put_times(sheet, name, row, figures.bounds)
    yield
    names = [one["name"] for one in document["gateway"]["names"]]
    for name in dict.fromkeys([*names, OTHER]):
        row = figures.names.get(name, NameFigures())
        sheet.put("orchestrate_gateway_model_requests_total", row.requests, name)
        sheet.put("orchestrate_gateway_fallbacks_total", row.fallbacks, name)
    for name, row in figures.clients.items():
        sheet.put("orchestrate_gateway_client_requests_total", row.requests, name)
        _put_tokens(sheet, "orchestrate_gateway_client_tokens_total", name, row)


def _put_instance(sheet: Sheet, name: str, row: InstanceFigures) -> None:
    sheet.put("orchestrate_gateway_in_flight", row.in_flight, name)
    sheet.put("orchestrate_gateway_waiting", row.waiting, name)
    for outcome in (*OUTCOMES, *sorted(set(row.outcomes).difference(OUTCOMES))):
        count = row.outcomes.get(outcome, 0)
        sheet.put("orchestrate_gateway_requests_total", count, name, outcome)
    sheet.put("orchestrate_gateway_retries_total", row.retries, name)
    sheet.put("orchestrate_gateway_sent_bytes_total", row.bytes, name)
    _put_tokens(sheet, "orchestrate_gateway_tokens_total", name, row)


def _put_tokens(sheet: Sheet, metric: str, name: str, row: InstanceFigures | NameFigures) -> None:
    sheet.put(metric, row.prompt_tokens, name, "prompt")
    sheet.put(metric, row.generated_tokens, name, "generated")


def _put_times(
    sheet: Sheet, name: str, row: InstanceFigures, bounds: Mapping[str, list[float]]
) -> None:
    for key, told in (("first_token", row.first_token), ("request", row.request)):
        if told is not None:
            sheet.put_spread(f"orchestrate_gateway_{key}_seconds", _spread(told, bounds[key]), name)


def _spread(told: Told, bounds: list[float]) -> Spread:
    made = Spread(tuple(bounds))
    made.counts, made.total = list(told.counts), told.total
    return made
