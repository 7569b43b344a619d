"""Metrics, in a real Prometheus: it scrapes a daemon with good and bad instances over TCP,
evaluates every rule of the alerts file, and answers every query of the Grafana dashboard."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import parser

from tests.conftest import world_of_a_file
from tests.fakes import fake
from tests.gateway_client import ask, stream
from tests.look import client, pids, status, until_phase, until_row
from tests.machine_has import needs_program
from tests.world import World, kill

DOCS = Path(__file__).parent.parent.parent / "docs" / "prometheus"

TOKEN = "a-token-of-the-test"

KEY = "sk-secret-of-the-engine"

PATIENCE = 60.0

EMPTY = {
    "orchestrate_gpu_memory_bytes": "this machine has no GPU",
    "orchestrate_gpu_memory_free_bytes": "this machine has no GPU",
}
"""Queries of the dashboard that have no answer here, by a metric of theirs."""

FIRES = {
    "OrchestrateDown",
    "OrchestrateProfileInvalid",
    "OrchestrateInstanceFailed",
    "OrchestrateInstanceNotReady",
    "OrchestrateInstanceRestarts",
    "OrchestrateInstanceLimit",
    "OrchestrateInstanceSlow",
    "OrchestrateInstanceStale",
    "OrchestrateModelFailed",
    "OrchestrateEngineMetricsMissing",
    "OrchestrateGatewayTurnsAway",
    "OrchestrateGatewayFallbacks",
}
"""What is wrong in the world of these tests."""

QUIET = {
    "OrchestrateNotConverged": "a model is being pulled: it is not settled",
    "OrchestrateNotSettled": "a model is being pulled: that may take its time",
    "OrchestratePullStuck": "that takes 15 minutes",
    "OrchestrateInstanceDoesNotGenerate": "the real engine does",
    "OrchestrateMemoryLow": "there is memory",
    "OrchestrateStateNotSaved": "there is a disk",
    "OrchestrateStalled": "there is no bug",
    "OrchestrateReconcileSlow": "the reconciler is quick",
    "OrchestrateDescriptorsLow": "there are descriptors",
    "OrchestrateGatewayDown": "it runs",
    "OrchestrateGatewayErrors": "what is asked through it answers",
    "OrchestrateGatewayQueue": "there are slots",
}
"""What is not; `promtool test rules` shows that these fire, too."""


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_rule_is_either_seen_to_fire_or_said_to_be_quiet() -> None:
    assert FIRES | set(QUIET) == {rule["alert"] for rule in rules()}
    assert not FIRES & set(QUIET)


# --- the world ------------------------------------------------------------------------------------


@dataclass
class Scraped:
    """A daemon, and the Prometheus that scrapes it."""

    world: World
    url: str
    prometheus: str

    def metrics(self, query: str = "", *, token: str = TOKEN) -> str:
        """What the daemon answers over TCP."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{self.url}/metrics{query}", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def ask(self, path: str, **query: str) -> Any:
        """What Prometheus answers; its error fails the test."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{query}: {error.read().decode()}") from None

    def found(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now, but for those that are no number."""
        result = self.ask("query", query=expression)["result"]
        return [one for one in result if not math.isnan(float(one["value"][1]))]

    def until_found(self, expression: str) -> list[dict[str, Any]]:
        end = time.monotonic() + PATIENCE
        while not (found := self.found(expression)):
            assert time.monotonic() < end, f"no data ever came for {expression}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def scraped(
    tmp_path_factory: pytest.TempPathFactory, model: Path, llama_server: str, ollama: str
) -> Generator[Scraped]:
    folder = tmp_path_factory.mktemp("metrics")
    with world_of_a_file(folder, model, llama_server) as world:
        address = f"127.0.0.1:{world.port()}"
        world.env |= {
            "ORCHESTRATE_OLLAMA": ollama,
            "ORCHESTRATE_LISTEN": address,
            "ORCHESTRATE_TOKEN": TOKEN,
            "OLLAMA_MODELS": str(folder / "store"),
        }
        stranger = world.port()
        with registry_of_nothing(stranger):
            world.run("apply", good(world))
            with prometheus(world, address) as url:
                made = Scraped(world, f"http://{address}", url)
                troubled(made, stranger)
                yield made


@contextmanager
def registry_of_nothing(port: int) -> Generator[None]:
    """It knows no model, and of slow ones it is never sure."""
    over = threading.Event()

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "slow" in self.path:
                over.wait(PATIENCE * 4)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", port), Registry) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield
        finally:
            over.set()
            server.shutdown()
            serving.join()


def good(world: World) -> Path:
    """One that can be asked for its metrics, and is to be told of in every way."""
    model = world.folder / "own.gguf"
    shutil.copy(world.model, model)
    coder = {
        "model": str(model),
        "port": world.port(),
        "flags": {"metrics": True, "api-key": KEY},
        "limits": {"memory": {"warn": "1MiB"}},
        "liveness": {"mode": "inference", "interval": "500ms", "slow": "1ms", "down": "10s"},
        "restart": {"initial": "10ms", "limit": "100 in 1m"},
    }
    gateway = {
        "port": world.port(),
        "routes": {"chat": {"to": ["resting"], "fallback": ["coder"]}},
    }
    instances = {"coder": coder, "resting": {"port": "auto"}}
    return world.profile(instances, name="good.yaml", gateway=gateway)


@contextmanager
def prometheus(world: World, address: str) -> Generator[str]:
    """Debian's, with the configuration and the rules of the documentation; how long it must be so
    before an alert fires is left out, and one more target is not there."""
    program = shutil.which("prometheus")
    assert program is not None
    folder = world.folder / "prometheus"
    folder.mkdir()
    config = yaml.safe_load((DOCS / "prometheus.yml").read_text())
    config["global"] = {"evaluation_interval": "500ms"}
    (job,) = config["scrape_configs"]
    job["scrape_interval"] = job["scrape_timeout"] = "500ms"
    job["scrape_timeout"] = "500ms"
    job["static_configs"] = [{"targets": [address, "127.0.0.1:1"]}]
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())
    for group in groups["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yml").write_text(yaml.safe_dump(groups))
    (folder / "orchestrate.token").write_text(TOKEN)
    port = world.port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            env=world.env,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/-/ready", folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)


def troubled(made: Scraped, stranger: int) -> None:
    """Bring about all that there is an alert for, as far as that is to be had in a minute."""
    world = made.world
    made.until_found('orchestrate_instance_restarts_total{cause="crashed"} == 0')
    for _ in range(5):
        pid = pids(world)["coder"]
        kill(pid)
        until_row(world, "coder", lambda r, old=pid: r["phase"] == "ready" and r["pid"] != old)
    served_and_turned_away(made)
    # The same content, but another file.
    model = world.folder / "own.gguf"
    shutil.copy(world.model, model)
    os.utime(model, (1, 1))
    bad = {
        "broken": {"restart": {"policy": "never"}},
        "waits": {"port": stranger},
        "mute": {"flags": {"metrics": True}, **fake()},
        "ollama": {
            "engine": "ollama",
            "port": world.port(),
            "models": [
                {"name": "made", "gguf": str(world.model), "preload": True},
                {"name": f"127.0.0.1:{stranger}/lib/slow", "insecure": True},
                {"name": f"127.0.0.1:{stranger}/lib/none", "insecure": True},
            ],
        },
    }
    profile = {name: {"model": str(world.model), **one} for name, one in bad.items()}
    del profile["ollama"]["model"]
    path = world.write("bad.yaml", yaml.safe_dump({"instances": profile}))
    world.run("apply", "--add", "--no-wait", path)
    until_phase(world, "broken", "ready")
    kill(pids(world)["broken"])
    until_phase(world, "broken", "failed")
    states = {"made:latest": "present", f"127.0.0.1:{stranger}/lib/none:latest": "failed"}
    until_row(
        world,
        "ollama",
        lambda r: states.items() <= {m["name"]: m["state"] for m in r["models"]}.items(),
    )
    until_phase(world, "waits", "backoff")
    until_phase(world, "mute", "ready")
    other = world.write("wrong.yaml", "instances: {}\n")
    world.run("apply", "--add", "--no-wait", other)
    world.write("wrong.yaml", "instances: {a: {prot: 1}}\n")
    made.until_found("orchestrate_profile_ok == 0")


def served_and_turned_away(made: Scraped) -> None:
    """A fallback answers for one that is held, and nobody for its own name."""
    world = made.world
    world.run("stop", "resting")
    made.until_found('orchestrate_gateway_own_answers_total{code="503"} == 0')
    made.until_found('orchestrate_gateway_fallbacks_total{model="chat"} == 0')
    port = status(world)["gateway"]["port"]
    # A histogram is there from the first one on; of what comes after that, there is a rate.
    for count in (1, 2, 3):
        assert stream(port, "chat")[-2] == b"data: [DONE]"
        assert ask(port, "resting")["error"]["code"]
        made.until_found(f"orchestrate_gateway_first_token_seconds_count == {count}")


# --- Prometheus -----------------------------------------------------------------------------------

in_prometheus = [needs_program("prometheus"), pytest.mark.timeout(300)]


class TestInPrometheus:
    pytestmark = in_prometheus

    def test_it_scrapes_what_the_daemon_says(self, scraped: Scraped) -> None:
        (up,) = scraped.found('up{job="orchestrate"} == 1')
        host = scraped.url.removeprefix("http://")
        assert up["metric"]["host"] == host
        (ready,) = scraped.found('orchestrate_instance_up{instance="coder"}')
        assert ready["metric"] == {
            "__name__": "orchestrate_instance_up",
            "instance": "coder",
            "host": host,
            "job": "orchestrate",
        }
        restarts = "orchestrate_instance_restarts_total{instance='coder', cause='crashed'}"
        (crashed,) = scraped.found(restarts)
        assert float(crashed["value"][1]) == 5

    def test_every_rule_is_evaluated_and_fires_where_it_should(self, scraped: Scraped) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            found = [r for g in scraped.ask("rules")["groups"] for r in g["rules"]]
            errors = {r["name"]: r.get("lastError") for r in found if r["health"] == "err"}
            assert not errors
            firing = {r["name"] for r in found if r["state"] == "firing"}
            known = all(r["health"] == "ok" for r in found)
            if known and firing >= FIRES:
                break
            assert time.monotonic() < end, f"never fired: {FIRES - firing}"
            time.sleep(0.3)
        alerts = scraped.ask("alerts")["alerts"]
        labels = {one["labels"]["alertname"]: one["labels"] for one in alerts}
        failed = labels["OrchestrateInstanceFailed"]
        assert (failed["instance"], failed["reason"]) == ("broken", "crashed")
        assert labels["OrchestrateInstanceLimit"]["alert"] == "memory"
        assert labels["OrchestrateEngineMetricsMissing"]["instance"] == "mute"
        words = [text for one in alerts for text in one["annotations"].values()]
        assert all("<no value>" not in text and "%!" not in text for text in words), words

    @pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
    def test_what_a_rule_looks_at_is_there(self, scraped: Scraped, rule: dict[str, Any]) -> None:
        for metric in metrics_in(rule["expr"]):
            assert scraped.until_found(f"count({metric})"), metric

    def test_every_query_of_the_dashboard_gives_data(self, scraped: Scraped) -> None:
        queries = list(dashboard_queries())
        assert len(queries) > 30
        for expression in queries:
            if set(metrics_in(expression)) & set(EMPTY):
                assert scraped.found(expression) == []
            else:
                assert scraped.until_found(expression), expression

    def test_every_variable_of_the_dashboard_has_values(self, scraped: Scraped) -> None:
        variables = dashboard()["templating"]["list"]
        asked = [one["definition"] for one in variables if one["type"] == "query"]
        for definition in asked:
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", definition)
            assert match is not None
            found = scraped.until_found(filled_in(match[1]))
            assert all(one["metric"].get(match[2]) for one in found)

    def test_no_series_is_in_two_places(self, scraped: Scraped) -> None:
        """Each sample was taken once, and none was refused."""
        for lost in ("duplicate_timestamp", "out_of_order", "out_of_bounds"):
            name = f"prometheus_target_scrapes_sample_{lost}_total"
            with urllib.request.urlopen(f"{scraped.prometheus}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            assert re.search(rf"^{name} 0$", text, re.MULTILINE), lost


def dashboard() -> dict[str, Any]:
    return json.loads((DOCS / "dashboard.json").read_text())


def dashboard_queries() -> Iterator[str]:
    """As Grafana would ask them, with all chosen in every variable."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield filled_in(target["expr"])


def filled_in(expression: str) -> str:
    for name, value in {"host": ".*", "instance": ".*", "__rate_interval": "5m"}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression
    return expression


def metrics_in(expression: str) -> list[str]:
    return re.findall(r"\b(?:orchestrate|llamacpp|process)[:_][a-z_]+\b", expression)


def test_what_is_not_asked_of_a_running_prometheus_is_whole() -> None:
    """The annotation would need a restarted daemon; its metric is one that others ask for."""
    (annotation,) = dashboard()["annotations"]["list"]
    assert metrics_in(annotation["expr"]) == ["process_start_time_seconds"]
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


# --- the daemon -----------------------------------------------------------------------------------


def scrape(world: World) -> str:
    """Over the control socket."""
    with client(world).stream("/metrics") as answer:
        return answer.read().decode()


def sample(text: str, name: str, **labels: str) -> float:
    found = [
        one.value
        for metric in parser.text_string_to_metric_families(text)
        for one in metric.samples
        if one.name == name and labels.items() <= one.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_what_is_declared_no_more_is_told_of_no_more(world: World) -> None:
    world.run("apply", world.profile({"old": None}))
    assert sample(scrape(world), "orchestrate_instance_up", instance="old") == 1.0
    world.run("apply", world.profile({"new": None}))
    text = scrape(world)
    assert sample(text, "orchestrate_instance_up", instance="new") == 1.0
    assert "old" not in text


def test_what_an_earlier_daemon_started_keeps_its_start_and_counts_anew(world: World) -> None:
    quick = {"restart": {"initial": "10ms"}}
    world.run("apply", world.profile({"a": quick}))
    pid = pids(world)["a"]
    kill(pid)
    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != pid)
    restarts = "orchestrate_instance_restarts_total"
    before = scrape(world)
    assert sample(before, restarts, cause="crashed") == 1.0
    assert sample(before, "orchestrate_instance_ready_seconds_count") == 2.0
    world.run("daemon", "restart")
    until_phase(world, "a", "ready")
    after = scrape(world)
    assert sample(after, restarts, cause="crashed") == 0.0
    assert "orchestrate_instance_ready_seconds" not in after
    for kept in ("start_time_seconds", "last_ready_seconds"):
        name = f"orchestrate_instance_{kept}"
        assert sample(after, name) == pytest.approx(sample(before, name), abs=0.1)
    used = "orchestrate_instance_cpu_seconds_total"
    assert sample(after, used) >= sample(before, used) - 0.05


def test_two_scrapes_see_one_start(world: World) -> None:
    """A start that moved by a millisecond would be a restart to whoever counts changes."""
    world.run("apply", world.profile({"a": None}))
    name = "orchestrate_instance_start_time_seconds"
    seen = {sample(scrape(world), name) for _ in range(5)}
    assert len(seen) == 1
    assert abs(time.time() - seen.pop()) < 60


class TestOfTheDaemon:
    pytestmark = in_prometheus

    def test_engines_are_asked_only_where_the_scraper_wants_it(self, scraped: Scraped) -> None:
        assert "llamacpp" not in scraped.metrics()
        assert "llamacpp" not in scraped.metrics("?relay=0")
        text = scraped.metrics("?relay=1")
        assert re.search(r'^llamacpp:tokens_predicted_total\{instance="coder"\} ', text, re.M)
        labels = r'\{instance="ollama",model="made:latest"\}'
        assert re.search(f"^orchestrate_ollama_model_memory_bytes{labels} [1-9]", text, re.M)

    def test_no_secret_is_told(self, scraped: Scraped) -> None:
        for query in ("", "?relay=1"):
            text = scraped.metrics(query)
            assert KEY not in text
            assert TOKEN not in text

    @pytest.mark.parametrize("token", ["", "another"])
    def test_without_the_token_there_is_nothing(self, scraped: Scraped, token: str) -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            scraped.metrics(token=token)
        with caught.value as error:
            assert error.code == 401

    def test_what_metrics_say_is_what_status_says(self, scraped: Scraped) -> None:
        document = scraped.world.status()
        found: dict[str, str] = {}
        for metric in parser.text_string_to_metric_families(scraped.metrics()):
            for sample in metric.samples:
                if sample.name == "orchestrate_instance_phase" and sample.value == 1.0:
                    found[sample.labels["instance"]] = sample.labels["phase"]
        steady = {"coder", "broken", "mute", "ollama"}
        phases = {row["name"]: row["phase"] for row in document["instances"]}
        assert found.keys() == phases.keys()
        assert {name: found[name] for name in steady} == {name: phases[name] for name in steady}
