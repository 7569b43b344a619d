"""The table of metrics: it is what the documentation says, and nothing else."""

from __future__ import annotations

import re

import pytest

from orchestrator.api.metric_table import TABLE, Meaning
from tests import metric_page

NAME = re.compile(r"orchestrate(_[a-z]+)+")

OF_INSTANCES = {"instance", "engine", "model", "profiles", "managed", "phase", "reason", "cause"}
OF_GATEWAYS = {"outcome", "code", "kind", "name", "client"}
BOUNDED = (
    OF_INSTANCES
    | OF_GATEWAYS
    | {"alert", "class", "state", "profile", "file", "type", "gpu", "version"}
)
"""Labels that have few values: of what is declared now, or of a fixed set of words."""


@pytest.mark.parametrize(("name", "meaning"), TABLE.items(), ids=list(TABLE))
def test_a_metric_is_named_as_prometheus_asks(name: str, meaning: Meaning) -> None:
    assert NAME.fullmatch(name)
    assert (name.endswith("_total")) == (meaning.kind == "counter")
    assert (name.endswith("_info")) == (meaning.kind == "info")
    assert (meaning.kind != "histogram") or name.endswith("_seconds")
    for reserved in ("_bucket", "_count", "_sum", "_created"):
        assert not name.endswith(reserved)
    # Base units, and none in the middle of a name.
    assert not re.search("milli|kilo|mega|percent|minutes|hours", name)
    assert set(meaning.labels) <= BOUNDED
    assert len(set(meaning.labels)) == len(meaning.labels)
    assert meaning.says.strip(".") == meaning.says


def test_the_page_has_the_table_of_the_code() -> None:
    have = metric_page.PAGE.read_text()
    assert have == metric_page.as_it_should_be(have), "python -m tests.metric_page --write"
