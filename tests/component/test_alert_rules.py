"""The rules of `docs/prometheus/alerts.yml`, by Prometheus's own tool: each fires when it should,
says so in words, and is quiet when all is well."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.api.metric_table import TABLE
from tests.machine_has import needs_program

RULES = Path(__file__).parent.parent.parent / "docs" / "prometheus" / "alerts.yml"

DAEMON = 'job="orchestrate", host="box:7717"'
CODER = f'{DAEMON}, instance="coder"'
MODEL = f'{CODER}, model="tiny:latest"'
CHAT = f'{DAEMON}, model="chat"'

WELL = {
    'up{job="orchestrate", host="box:7717", instance="box:7717"}': "1x120",
    f"orchestrate_converged{{{DAEMON}}}": "1x120",
    f"orchestrate_settled{{{DAEMON}}}": "1x120",
    f"orchestrate_state_saved{{{DAEMON}}}": "1x120",
    f'orchestrate_profile_ok{{{DAEMON}, profile="p", file="/p.yaml"}}': "1x120",
    f'orchestrate_events_total{{{DAEMON}, type="bug"}}': "0x120",
    f'orchestrate_events_total{{{DAEMON}, type="stalled"}}': "0x120",
    f'orchestrate_reconcile_seconds_bucket{{{DAEMON}, le="0.1"}}': "0+10x120",
    f'orchestrate_reconcile_seconds_bucket{{{DAEMON}, le="1.0"}}': "0+10x120",
    f'orchestrate_reconcile_seconds_bucket{{{DAEMON}, le="+Inf"}}': "0+10x120",
    f"orchestrate_memory_free_bytes{{{DAEMON}}}": "50x120",
    f"orchestrate_memory_budget_bytes{{{DAEMON}}}": "100x120",
    f"process_open_fds{{{DAEMON}}}": "20x120",
    f"process_max_fds{{{DAEMON}}}": "1024x120",
    f"orchestrate_instance_up{{{CODER}}}": "1x120",
    f"orchestrate_instance_held{{{CODER}}}": "0x120",
    f"orchestrate_instance_stale{{{CODER}}}": "0x120",
    f'orchestrate_instance_phase{{{CODER}, phase="failed"}}': "0x120",
    f'orchestrate_instance_phase{{{CODER}, phase="stopped"}}': "0x120",
    f'orchestrate_instance_restarts_total{{{CODER}, cause="crashed"}}': "0x60 1x60",
    f'orchestrate_instance_restarts_total{{{CODER}, cause="hung"}}': "0x120",
    f'orchestrate_instance_alert{{{CODER}, alert="memory"}}': "0x120",
    f'orchestrate_instance_health{{{CODER}, class="slow"}}': "0x120",
    f'orchestrate_instance_health{{{CODER}, class="down"}}': "0x120",
    f'orchestrate_instance_model_state{{{MODEL}, state="failed"}}': "0x120",
    f"orchestrate_instance_model_done_bytes{{{MODEL}}}": "0+1000x120",
    f"orchestrate_relay_up{{{CODER}}}": "1x120",
    f"orchestrate_gateway_up{{{DAEMON}}}": "1x120",
    f'orchestrate_gateway_requests_total{{{CODER}, outcome="2xx"}}': "0+100x120",
    f'orchestrate_gateway_requests_total{{{CODER}, outcome="5xx"}}': "0+1x120",
    f'orchestrate_gateway_requests_total{{{CODER}, outcome="lost"}}': "0+1x120",
    f'orchestrate_gateway_requests_total{{{CODER}, outcome="4xx"}}': "0+50x120",
    f'orchestrate_gateway_own_answers_total{{{DAEMON}, code="404"}}': "0+3x120",
    f'orchestrate_gateway_own_answers_total{{{DAEMON}, code="429"}}': "0x120",
    f"orchestrate_gateway_waiting{{{CODER}}}": "0 1 5 0x120",
    f"orchestrate_gateway_model_requests_total{{{CHAT}}}": "0+10x120",
    f"orchestrate_gateway_fallbacks_total{{{CHAT}}}": "0+3x120",
}
"""Two hours of one instance, a sample a minute, with one restart in it."""


@dataclass(frozen=True)
class Wrong:
    """What differs from a good time, when (in minutes) it is an alert, and of what labels."""

    differs: dict[str, str]
    at: int
    labels: dict[str, str] = field(default_factory=dict[str, str])
    instance: str = "coder"


def series(name: str, more: str = "") -> str:
    """The one of the good time that this is."""
    (only,) = [one for one in WELL if one.startswith(f"{name}{{") and more in one]
    return only


UP = series("up")
FAILED = series("orchestrate_instance_phase", "failed")
REASON = f'orchestrate_instance_reason{{{CODER}, reason="out-of-memory"}}'
CRASHED = series("orchestrate_instance_restarts_total", "crashed")

WRONG: dict[str, list[Wrong]] = {
    "OrchestrateDown": [Wrong({UP: "0x60"}, 5, {"job": "orchestrate"}, "box:7717")],
    "OrchestrateNotConverged": [Wrong({series("orchestrate_converged"): "0x60"}, 6, {}, "")],
    "OrchestrateNotSettled": [
        Wrong(
            {
                series("orchestrate_settled"): "0x60",
                series("orchestrate_instance_model_done_bytes"): "_x60",
            },
            31,
            {},
            "",
        )
    ],
    "OrchestrateProfileInvalid": [
        Wrong(
            {series("orchestrate_profile_ok"): "0x60"}, 3, {"profile": "p", "file": "/p.yaml"}, ""
        )
    ],
    "OrchestrateInstanceFailed": [
        Wrong({FAILED: "1x60", REASON: "1x60"}, 2, {"phase": "failed", "reason": "out-of-memory"}),
        Wrong({FAILED: "1x60"}, 2, {"phase": "failed"}),
    ],
    "OrchestrateInstanceNotReady": [Wrong({series("orchestrate_instance_up"): "0x60"}, 16)],
    "OrchestrateInstanceRestarts": [Wrong({CRASHED: "0x10 2x2 4x2 6x60"}, 16)],
    "OrchestrateInstanceLimit": [
        Wrong({series("orchestrate_instance_alert"): "1x60"}, 2, {"alert": "memory"})
    ],
    "OrchestrateInstanceDoesNotGenerate": [
        Wrong({series("orchestrate_instance_health", "down"): "1x60"}, 3, {"class": "down"})
    ],
    "OrchestrateInstanceSlow": [
        Wrong({series("orchestrate_instance_health", "slow"): "1x60"}, 16, {"class": "slow"})
    ],
    "OrchestrateModelFailed": [
        Wrong(
            {series("orchestrate_instance_model_state"): "1x60"},
            6,
            {"model": "tiny:latest", "state": "failed"},
        )
    ],
    "OrchestratePullStuck": [
        Wrong(
            {series("orchestrate_instance_model_done_bytes"): "5x60"}, 31, {"model": "tiny:latest"}
        )
    ],
    "OrchestrateInstanceStale": [
        Wrong({series("orchestrate_instance_stale"): "1x400"}, 6 * 60 + 1)
    ],
    "OrchestrateMemoryLow": [Wrong({series("orchestrate_memory_free_bytes"): "4x60"}, 11, {}, "")],
    "OrchestrateStateNotSaved": [Wrong({series("orchestrate_state_saved"): "0x60"}, 2, {}, "")],
    "OrchestrateStalled": [
        Wrong(
            {series("orchestrate_events_total", "stalled"): "0x10 1x60"},
            12,
            {"type": "stalled"},
            "",
        )
    ],
    "OrchestrateReconcileSlow": [
        Wrong({series("orchestrate_reconcile_seconds_bucket", '"0.1"'): "0x60"}, 21, {}, "")
    ],
    "OrchestrateDescriptorsLow": [Wrong({series("process_open_fds"): "1000x60"}, 6, {}, "")],
    "OrchestrateEngineMetricsMissing": [Wrong({series("orchestrate_relay_up"): "0x60"}, 16)],
    "OrchestrateGatewayDown": [Wrong({series("orchestrate_gateway_up"): "0x60"}, 3, {}, "")],
    "OrchestrateGatewayErrors": [
        Wrong({series("orchestrate_gateway_requests_total", broken): "0+20x60"}, 12)
        for broken in ("5xx", "lost")
    ],
    "OrchestrateGatewayTurnsAway": [
        Wrong(
            {series("orchestrate_gateway_own_answers_total", "429"): "0+2x60"},
            12,
            {"code": "429"},
            "",
        )
    ],
    "OrchestrateGatewayQueue": [Wrong({series("orchestrate_gateway_waiting"): "3x60"}, 11)],
    "OrchestrateGatewayFallbacks": [
        Wrong({series("orchestrate_gateway_fallbacks_total"): "0+6x60"}, 12, {"model": "chat"}, "")
    ],
}

QUIET: dict[str, Wrong] = {
    "OrchestrateNotConverged": Wrong(
        {series("orchestrate_converged"): "0x60", series("orchestrate_settled"): "0x60"}, 20
    ),
    "OrchestrateNotSettled": Wrong({series("orchestrate_settled"): "0x60"}, 45),
    "OrchestrateInstanceNotReady": Wrong(
        {
            series("orchestrate_instance_up"): "0x60",
            series("orchestrate_instance_held"): "1x60",
        },
        45,
    ),
    "OrchestrateInstanceRestarts": Wrong({CRASHED: "0x10 1x2 3x60"}, 16),
    "OrchestratePullStuck": Wrong(
        {series("orchestrate_instance_model_done_bytes"): "_x20 5x60"}, 30
    ),
    "OrchestrateDown": Wrong({UP: "1x2 0 1x60"}, 4),
    # What is over, and what nobody asks for any more.
    "OrchestrateGatewayTurnsAway": Wrong(
        {series("orchestrate_gateway_own_answers_total", "429"): "0+2x5 10x60"}, 16
    ),
    "OrchestrateGatewayFallbacks": Wrong(
        {
            series("orchestrate_gateway_fallbacks_total"): "0+6x5 30x60",
            series("orchestrate_gateway_model_requests_total"): "0+10x5 50x60",
        },
        16,
    ),
}
"""What looks like it, and is none."""


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_every_rule_is_tried() -> None:
    assert set(WRONG) == set(rules())


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    assert program is not None
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=120)


@needs_program("promtool")
def test_the_files_are_what_prometheus_takes(tmp_path: Path) -> None:
    ran = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for file in ("alerts.yml", "prometheus.yml"):
        shutil.copy(RULES.with_name(file), tmp_path)
    (tmp_path / "orchestrate.token").write_text("x")
    ran = promtool("check", "config", tmp_path / "prometheus.yml")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_program("promtool")
def test_each_rule_fires_and_is_quiet_as_it_should(tmp_path: Path) -> None:
    tests = [story(alert, wrong, fires=True) for alert, all_of in WRONG.items() for wrong in all_of]
    tests += [story(alert, wrong, fires=False) for alert, wrong in QUIET.items()]
    quiet = [
        {"eval_time": f"{at}m", "alertname": alert, "exp_alerts": []}
        for alert in rules()
        for at in (30, 65, 120)
    ]
    tests.append({**story("OrchestrateDown", Wrong({}, 0), fires=False), "alert_rule_test": quiet})
    path = tmp_path / "alerts_test.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    ran = promtool("test", "rules", path)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def story(alert: str, wrong: Wrong, *, fires: bool) -> dict[str, Any]:
    """Hours in which that is so, and what is expected of the one rule."""
    given = {**WELL, **wrong.differs}
    expected: list[dict[str, Any]] = []
    if fires:
        rule = rules()[alert]
        labels = {"host": "box:7717", "job": "orchestrate", **wrong.labels}
        if wrong.instance:
            labels["instance"] = wrong.instance
        expected.append(
            {
                "exp_labels": {**labels, **rule["labels"]},
                "exp_annotations": {
                    key: said(text, labels) for key, text in rule["annotations"].items()
                },
            }
        )
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "alert_rule_test": [
            {"eval_time": f"{wrong.at}m", "alertname": alert, "exp_alerts": expected}
        ],
    }


def said(text: str, labels: dict[str, str]) -> str:
    """The text with the labels in their places, less what hangs on one that is not there."""
    text = re.sub(
        r"\{\{ with \$labels\.(\w+) \}\}(.*?)\{\{ \. \}\}\{\{ end \}\}",
        lambda match: match[2] + labels[match[1]] if match[1] in labels else "",
        text,
    )
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels[match[1]], text)


def test_rules_look_at_metrics_that_there_are() -> None:
    known = {*TABLE, "up", "process_open_fds", "process_max_fds"}
    for alert, rule in rules().items():
        for name in re.findall(r"\b(?:orchestrate|process|up)_?[a-z_]*\b", rule["expr"]):
            if name != "orchestrate":
                assert name.removesuffix("_bucket") in known, f"{alert}: {name}"


@pytest.mark.parametrize("alert", rules())
def test_each_says_what_to_do(alert: str) -> None:
    rule = rules()[alert]
    assert rule["labels"]["severity"] in ("page", "warn")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["annotations"]["description"].endswith((".", "?"))
