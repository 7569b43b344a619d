"""GPUs as engines list them, and how a process is told which it may see."""

from __future__ import annotations

import pytest

from orchestrator.core.gpu import (
    GpuChooser,
    Visible,
    listed_gpus,
    roomiest,
    visible,
    visible_to_ollama,
)
from orchestrator.core.parse import parse_profile
from orchestrator.core.port import PortChooser
from orchestrator.core.resolve import Resolved, Surroundings, needed_engines, resolve_profile
from orchestrator.core.spec import InstanceSpec
from orchestrator.engines.llama_server import LlamaServer
from orchestrator.engines.ollama import Ollama
from tests.unit.test_flags import table
from tests.unit.test_ollama_engine import LISTED
from tests.unit.test_resolve import BINARY, CATALOG

GIB = 1 << 30
TWO = """\
ggml_cuda_init: found 2 CUDA devices:
Available devices:
  CUDA0: NVIDIA GeForce RTX 4090 (24077 MiB, 23000 MiB free)
  CUDA1: NVIDIA GeForce RTX 3060 (12000 MiB, 11500 MiB free)
  Vulkan0: NVIDIA GeForce RTX 4090 (24077 MiB, 23000 MiB free)
"""
CUDA = listed_gpus(TWO)
VULKAN = listed_gpus("Available devices:\n  Vulkan0: Arc (Alchemist) (8000 MiB, 7000 MiB free)\n")
ROCM = listed_gpus("  ROCm0: AMD Radeon (16000 MiB, 15000 MiB free)\n")


def test_what_a_llama_server_lists() -> None:
    assert [(gpu.name, gpu.index, gpu.total >> 20) for gpu in CUDA] == [
        ("CUDA0", 0, 24077),
        ("CUDA1", 1, 12000),
    ]
    assert VULKAN[0].description == "Arc (Alchemist)"
    assert listed_gpus("Available devices:\n  (none)\n") == ()


@pytest.mark.parametrize(
    ("chosen", "gpus", "expected"),
    [
        (
            (1,),
            CUDA,
            Visible({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}),
        ),
        ((), CUDA, Visible({"CUDA_VISIBLE_DEVICES": ""})),
        ((0,), ROCM, Visible({"HIP_VISIBLE_DEVICES": "0"})),
        ((0,), VULKAN, Visible({}, "Vulkan0")),
        ((), VULKAN, Visible({}, "none")),
        ((), (), Visible({})),
    ],
)
def test_how_a_process_is_told(chosen: tuple[int, ...], gpus: object, expected: Visible) -> None:
    assert visible(chosen, gpus) == expected  # type: ignore[arg-type]


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"no GPU 2: the engine lists 0 \(NVIDIA.*1 \(NVIDIA"):
        visible((2,), CUDA)
    with pytest.raises(ValueError, match="no GPU 0: the engine lists none"):
        visible((0,), ())


def test_ollama_reads_variables_of_every_kind() -> None:
    env = visible_to_ollama((0, 1)).env
    assert env["CUDA_VISIBLE_DEVICES"] == env["ROCR_VISIBLE_DEVICES"] == "0,1"
    assert visible_to_ollama(()).env["CUDA_VISIBLE_DEVICES"] == "-1"


def test_the_gpu_with_most_room_and_more_where_it_is_too_small() -> None:
    assert roomiest(5 * GIB, CUDA, {}) == (0,)
    assert roomiest(5 * GIB, CUDA, {0: 20 * GIB}) == (1,)
    assert roomiest(30 * GIB, CUDA, {}) == (0, 1)


def test_a_choice_is_kept_for_as_long_as_its_gpus_are_there() -> None:
    chooser = GpuChooser({"a": (1,), "b": (7,)})
    assert chooser.choose("a", GIB, CUDA) == (1,)
    assert chooser.choose("b", GIB, CUDA) == (0,)
    chooser.promise({0: 20 * GIB})
    assert chooser.choose("c", GIB, CUDA) == (1,)


# --- in a profile ---------------------------------------------------------------------------------


def meant(text: str, **around: object) -> Resolved:
    parsed = parse_profile(text.encode(), file="/profiles/p.yaml", env={})
    assert parsed.profile is not None, parsed.problems
    keys = needed_engines(parsed.profile.config)
    programs = {
        "llama-server": LlamaServer(BINARY, ("/bin/llama-server",), table()),
        "ollama": Ollama(BINARY, ("/bin/ollama",), LISTED, home="/home/me"),
    }
    engines = {key: programs[key[0]] for key in keys}
    settings = {"gpus": dict.fromkeys(keys, CUDA), **around}
    return resolve_profile(
        parsed.profile,
        Surroundings(
            catalog=CATALOG,
            engines=engines,
            host="127.0.0.1",
            cwd="/run",
            ports=PortChooser({}, (), (32768, 60999)),
            **settings,  # type: ignore[arg-type]
        ),
    )


def one(text: str, **around: object) -> InstanceSpec:
    done = meant(f"instances:\n  a: {text}\n", **around)
    assert not done.problems, done.problems
    return done.file.specs["a"]


def wrong(text: str, **around: object) -> str:
    return "; ".join(p.message for p in meant(f"instances:\n  a: {text}\n", **around).problems)


def test_gpus_reach_the_process() -> None:
    found = one("{model: tiny, resources: {gpus: [1]}}")
    assert found.command.env["CUDA_VISIBLE_DEVICES"] == "1"
    assert found.gpus == (1,)


def test_auto_takes_the_roomiest_and_keeps_it() -> None:
    text = "{model: tiny, resources: {gpus: auto, memory: 20GiB}}"
    assert one(text).gpus == (0,)
    assert one(text).demand is not None
    assert one(text, gpu_chooser=GpuChooser({"a": (1,)})).gpus == (1,)


def test_two_with_auto_do_not_crowd_one_gpu() -> None:
    done = meant(
        "defaults: {llama-server: {resources: {gpus: auto, memory: 20GiB}}}\n"
        "instances: {a: {model: tiny}, b: {model: tiny}}\n"
    )
    assert [spec.gpus for spec in done.file.specs.values()] == [(0,), (0, 1)]


def test_auto_without_gpus_says_nothing() -> None:
    found = one("{model: tiny, resources: {gpus: auto}}", gpus={})
    assert (found.gpus, found.command.env) == (None, {})


def test_other_devices_are_named_on_the_command_line() -> None:
    keys = {("llama-server", None): VULKAN}
    found = one("{model: tiny, resources: {gpus: [0]}}", gpus=keys)
    at = found.command.argv.index("--device")
    assert found.command.argv[at + 1] == "Vulkan0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{model: tiny, resources: {gpus: [5]}}", "there is no GPU 5"),
        (
            "{model: tiny, resources: {gpus: [0]}, env: {CUDA_VISIBLE_DEVICES: '1'}}",
            "also chosen by CUDA_VISIBLE_DEVICES",
        ),
        ("{model: tiny, resources: {gpus: [0]}, flags: {device: CUDA0}}", "by the flag 'device'"),
        (
            "{engine: ollama, resources: {gpus: [0]}, env: {ROCR_VISIBLE_DEVICES: '1'}}",
            "also chosen by ROCR_VISIBLE_DEVICES",
        ),
    ],
)
def test_what_contradicts_itself(text: str, message: str) -> None:
    assert message in wrong(text)


def test_an_ollama_takes_what_is_declared_or_nobody_knows() -> None:
    assert one("{engine: ollama}").demand is None
    found = one("{engine: ollama, resources: {memory: 6GiB, gpus: [1]}}")
    assert found.demand is not None
    assert found.demand.gpus == {1: 6 * GIB}
    assert found.command.env["CUDA_VISIBLE_DEVICES"] == "1"
