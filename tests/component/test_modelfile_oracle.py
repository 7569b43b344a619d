"""Our reading of Modelfiles beside Ollama's own: the same text makes the same model."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.modelfile import parse_modelfile
from orchestrator.core.modelfile_text import ModelfileError
from tests.ollama_world import Server, ask, cli, running_ollama

pytestmark = pytest.mark.ollama

MODELFILES = {
    "plain": "FROM base\n",
    "quotes": 'FROM base\nSYSTEM """\nsay "hi"\n  now\n"""\nTEMPLATE "{{ .Prompt }}x"\n',
    "inner-quotes": 'from base\nsystem "a "b" c"\nLICENSE """"q" """\n',
    "odd-characters": "FROM base\r\n# c\r\nSYSTEM a\x07b\tc é日\u00a0d  \r\nLICENSE l\r\n",
    "parameters": (
        "FROM base\nPARAMETER temperature .5\nPARAMETER top_k 7\nPARAMETER seed -1\n"
        'PARAMETER stop "<a>"\nPARAMETER stop  two words \nPARAMETER use_mmap T\n'
        "PARAMETER mirostat 1\nPARAMETER num_ctx 128\nPARAMETER repeat_penalty 1\n"
    ),
    "messages": 'FROM base\nMESSAGE user a: b\nMESSAGE assistant """c\nd"""\nMESSAGE system e\n',
    "the-last-counts": "FROM base\nSYSTEM a\nSYSTEM b\nLICENSE x\nLICENSE y\nREQUIRES v0.1.0\n",
    "empty": 'FROM base\nSYSTEM ""\nTEMPLATE """"""\n',
}
REFUSED = {
    "no-base": "SYSTEM x\n",
    "unknown": "FROM base\nFORM x\n",
    "no-value": "FROM base\nSYSTEM\n",
    "open": 'FROM base\nSYSTEM """x\n',
    "role": "FROM base\nMESSAGE bob x\n",
    "two-spaces": "FROM base\nPARAMETER  top_k 1\n",
    "whole": "FROM base\nPARAMETER top_k 1_0\n",
    "float": "FROM base\nPARAMETER top_k 1.0\n",
    "switch": "FROM base\nPARAMETER use_mmap yes\n",
    "parameter": "FROM base\nPARAMETER topk 1\n",
    "adapter": "FROM base\nADAPTER ./x\n",
    "version": "FROM base\nREQUIRES soon\n",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path: Path, ollama: str, model: Path) -> Iterator[Server]:
    with running_ollama(tmp_path / "theirs", free_port(), binary=ollama) as running:
        (tmp_path / "base.Modelfile").write_text(f"FROM {model}\n")
        cli(
            ollama, running.port, "create", "base", "-f", tmp_path / "base.Modelfile", home=tmp_path
        )
        yield running


def shown(server: Server, name: str) -> list[str]:
    """What Ollama says that it is made of, but for the name; parameters come in any order."""
    text: str = ask(server.port, "/api/show", {"model": name})["modelfile"]
    return sorted(line for line in text.split("\n") if not line.startswith("#"))


def test_the_same_text_makes_the_same_model(server: Server, ollama: str, tmp_path: Path) -> None:
    for name, text in MODELFILES.items():
        file = tmp_path / name
        file.write_bytes(text.encode())
        cli(ollama, server.port, "create", f"cli-{name}", "-f", file, home=tmp_path)
        found = parse_modelfile(text)
        body = {"model": f"api-{name}", "from": found.bases[0], **found.settings}
        assert ask(server.port, "/api/create", body) == {"status": "success"}
        assert shown(server, f"api-{name}") == shown(server, f"cli-{name}"), name


def test_what_one_refuses_the_other_refuses(server: Server, ollama: str, tmp_path: Path) -> None:
    for name, text in REFUSED.items():
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(ModelfileError):
            parse_modelfile(text)
        with pytest.raises(AssertionError):
            cli(ollama, server.port, "create", name, "-f", file, home=tmp_path)
