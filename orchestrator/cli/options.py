"""Options and types that several commands share."""

from __future__ import annotations

from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="JSON on stdout, and nothing else there."
)


class DurationType(click.ParamType[float]):
    """`10s`, `5m`, `1h30m`; a plain number is seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from orchestrator.core.units import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(float(value) if value.isdecimal() else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()
