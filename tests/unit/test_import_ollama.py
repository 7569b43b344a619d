"""Ollama's environment to an instance, and what a systemd unit gives its service."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.import_draft import Imported, spelled
from orchestrator.core.import_ollama import OllamaHere, translate_ollama
from orchestrator.core.import_unit import UnitEnvironment
from orchestrator.engines.ollama_settings import parse_serve_help, rendered
from tests.unit.test_import_flags import HELP

LISTED = parse_serve_help((HELP.parent / "ollama-0.34.4-serve-help.txt").read_text()).about


def imported(shell: dict[str, str], **more: Any) -> Imported:
    given: dict[str, Any] = {"unit": {}, "tags": (), "cwd": "/cwd", "listed": LISTED, **more}
    return translate_ollama(OllamaHere(shell=shell, accepts=rendered, **given))


def instance(shell: dict[str, str], **more: Any) -> dict[str, Any]:
    return spelled(imported(shell, **more).document)["instances"]["ollama"]


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("OLLAMA_FLASH_ATTENTION", "1", True),
        ("OLLAMA_FLASH_ATTENTION", "false", False),
        ("OLLAMA_SCHED_SPREAD", "yes", True),
        ("OLLAMA_NUM_PARALLEL", "4", 4),
        ("OLLAMA_KEEP_ALIVE", "24h", "24h"),
        ("OLLAMA_KEEP_ALIVE", "-1", -1),
        ("OLLAMA_KEEP_ALIVE", "300", 300),
        ("OLLAMA_DEBUG", "1", 1),
        ("OLLAMA_KV_CACHE_TYPE", '"q8_0"', "q8_0"),
        ("OLLAMA_ORIGINS", "http://a,http://b", "http://a,http://b"),
        ("OLLAMA_MODELS", "store", "/cwd/store"),
        ("OLLAMA_MODELS", "/store", "/store"),
    ],
)
def test_settings_are_read_as_ollama_reads_them(name: str, value: str, setting: Any) -> None:
    made = instance({name: value})

    [found] = made["settings"].values()
    assert (found, type(found)) == (setting, type(setting))


def test_what_ollama_passes_over_is_lost() -> None:
    made = imported({"OLLAMA_NUM_PARALLEL": "many"})

    assert [(one.kind, one.path) for one in made.remarks] == [("lost", "OLLAMA_NUM_PARALLEL")]


@pytest.mark.parametrize(
    ("named", "host", "port"),
    [
        ("127.0.0.1:1234", None, 1234),
        ("localhost", None, 11434),
        ("0.0.0.0", "0.0.0.0", 11434),
        ("http://0.0.0.0:1234/x", "0.0.0.0", 1234),
        ("http://localhost", None, 80),
        (":1234", None, 1234),
        ("[::1]:1234", "::1", 1234),
        ("gpu.example:1234", None, 11434),
        ("[", None, 11434),
    ],
)
def test_the_address_is_that_of_this_machine(named: str, host: str | None, port: int) -> None:
    made = instance({"OLLAMA_HOST": named})

    assert (made.get("host"), made["port"]) == (host, port)


def test_what_is_no_setting_is_an_environment_variable() -> None:
    made = instance(
        {"OLLAMA_NEW": "1", "OLLAMA_API_KEY": "hunter2", "OLLAMA_NOHISTORY": "1", "HOME": "/"}
    )

    assert made["env"] == {"OLLAMA_NEW": "1", "OLLAMA_API_KEY": "${env:OLLAMA_API_KEY}"}


def test_the_shell_wins_over_the_service_and_that_is_said() -> None:
    unit = {
        "OLLAMA_NUM_PARALLEL": "4",
        "CUDA_VISIBLE_DEVICES": "1",
        "OLLAMA_HOST": "10.0.0.7",
        "PATH": "/",
    }

    made = imported({"OLLAMA_NUM_PARALLEL": "2"}, unit=unit, tags=("a:1b",), running=True)

    assert spelled(made.document)["instances"]["ollama"] == {
        "engine": "ollama",
        "host": "10.0.0.7",
        "port": 11434,
        "attach": "auto",
        "settings": {"num_parallel": 2},
        "env": {"CUDA_VISIBLE_DEVICES": "1"},
        "models": ["a:1b"],
    }
    said = [one.message for one in made.remarks]
    assert said[0].startswith("the service and this shell differ")
    assert said[1].startswith("a server that runs is used as it is")


def test_without_a_help_every_one_of_its_variables_is_a_setting() -> None:
    assert instance({"OLLAMA_NUM_PARALLEL": "2"}, listed=None)["settings"] == {"num_parallel": 2}


# --- units ---------------------------------------------------------------------------------------


def read(*texts: str) -> UnitEnvironment:
    unit = UnitEnvironment()
    for at, text in enumerate(texts):
        unit.unit(text, f"{at}.conf", home="/home/me")
    return unit


def test_a_unit_and_its_drop_ins() -> None:
    unit = read(
        '[Unit]\nEnvironment=NO=1\n[Service]\nUser=ollama\n# a comment\nEnvironment="A=1 2" B=3\n'
        "Environment=C=%h/x D=50%% \\\n  E=5\nEnvironmentFile=-/etc/default/ollama\n"
        "[Install]\nEnvironment=NO=1\n",
        "[Service]\nEnvironment=A=9\n",
    )

    assert unit.variables == {"A": "9", "B": "3", "C": "/home/me/x", "D": "50%", "E": "5"}
    assert (unit.user, unit.files, unit.unread) == ("ollama", ["/etc/default/ollama"], [])


def test_an_empty_line_forgets() -> None:
    assert read("[Service]\nEnvironment=A=1\nEnvironment=\nEnvironment=B=2\n").variables == {
        "B": "2"
    }


def test_what_only_systemd_knows_is_named() -> None:
    unit = read("[Service]\n\nEnvironment=A=%i\nEnvironment=loose B='open\n")

    assert unit.unread == [("0.conf", 3), ("0.conf", 4)]
    assert unit.variables == {"B": "'open"}


def test_an_environment_file() -> None:
    unit = UnitEnvironment()
    unit.environment_file("# c\nA=1\nB=\"x y\"\nC='z'\nnonsense\nD=\n", "ollama")

    assert unit.variables == {"A": "1", "B": "x y", "C": "z", "D": ""}
    assert unit.unread == [("ollama", 5)]
