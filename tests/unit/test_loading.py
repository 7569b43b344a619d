"""What a command says about memory, and where its bytes end up."""

from __future__ import annotations

import pytest

from orchestrator.core.catalog import Metadata
from orchestrator.core.demand import Weights, declared_demand, llama_server_demand
from orchestrator.core.loading import FIT_CONTEXT, Loading, loading_of
from orchestrator.core.memory import AUTO_PARALLEL, Load
from orchestrator.core.spec import Command, Demand

GIB = 1 << 30
SEVEN_B = Metadata(
    architecture="llama",
    layers=32,
    embedding_length=4096,
    heads=32,
    heads_kv=8,
    context_length=131_072,
    vocabulary_size=128_256,
    repacked_bytes=3 * GIB,
)
WEIGHTS = Weights({"/m/7b.gguf": 5 * GIB}, SEVEN_B)


def said(*flags: str, **env: str) -> Loading:
    return loading_of(("llama-server", "--model", "/m/7b.gguf", *flags), env)


def demand(*flags: str, gpus: dict[int, int] | None = None) -> Demand:
    argv = ("llama-server", "--model", "/m/7b.gguf", *flags)
    found = llama_server_demand(Command(argv, {}, "/run"), WEIGHTS, gpus or {})
    assert found is not None
    return found


def test_a_server_that_is_told_nothing_has_four_slots_and_one_pool() -> None:
    found = said()
    assert found.load == Load(parallel=AUTO_PARALLEL, unified=True)
    assert found.gpu_layers is None
    assert found.fits_itself
    assert found.shrinks_to == FIT_CONTEXT


@pytest.mark.parametrize(
    ("flags", "load"),
    [
        (("-c", "8192", "-np", "2"), Load(8192, 2)),
        (("--ctx-size", "8192", "--parallel", "2", "--kv-unified"), Load(8192, 2, unified=True)),
        (("-c", "1", "-c", "2", "-np", "1"), Load(2)),
        (("-np", "-1", "-no-kvu"), Load(parallel=4)),
        (("-np", "2", "--kv-unified-per-slot", "512"), Load(1024, 2)),
        (("-np", "1", "-ctk", "q8_0"), Load(cache_type_k="q8_0")),
        (("-np", "1", "--cache-type-v", "q4_0"), Load(cache_type_v="q4_0")),
        (("-np", "1", "-ctk", "what"), Load()),
        (("-np", "1", "-ub", "1024", "-b", "256"), Load(micro_batch=256)),
        (("-np", "1", "--swa-full", "--no-repack"), Load(full_window=True, repack=False)),
        (("-np", "1", "--load-mode", "none"), Load(mapped=False)),
        (("-np", "1", "--no-mmap"), Load(mapped=False)),
        (("-np", "1", "-c", "many"), Load()),
    ],
)  # fmt: skip
def test_flags_of_any_spelling(flags: tuple[str, ...], load: Load) -> None:
    assert said(*flags).load == load


def test_the_command_line_goes_before_the_environment() -> None:
    env = {"LLAMA_ARG_CTX_SIZE": "512", "LLAMA_ARG_N_PARALLEL": "1"}
    assert said(**env).load == Load(512)
    assert said("-c", "1024", **env).load == Load(1024)


def test_what_goes_to_the_gpus() -> None:
    assert said("-ngl", "99").gpu_layers == 99
    assert said("-ngl", "all").gpu_layers == -1
    assert not said("-ngl", "10").fits_itself
    assert said("--device", "none").gpu_layers == 0
    assert said("--fit", "off").shrinks_to is None
    assert said("-c", "512").shrinks_to is None


def test_on_a_cpu_what_was_repacked_is_read_from_the_file_no_more() -> None:
    found = demand("-c", "8192", "-np", "1")
    assert found.mapped == {"/m/7b.gguf": 2 * GIB}
    assert found.host == pytest.approx(3 * GIB + GIB, rel=0.1)
    assert (found.gpus, found.least, found.fits_itself) == ({}, None, False)


def test_the_embedded_engine_is_a_python_program_besides() -> None:
    argv = ("/bin/python", "-m", "orchestrator.engines.embedded", "-c", "8192", "-np", "1")
    found = llama_server_demand(Command(argv, {}, "/run"), WEIGHTS, {})
    assert found is not None
    assert found.host - demand("-c", "8192", "-np", "1").host == 12 << 20


def test_a_server_that_may_shrink_says_how_far() -> None:
    found = demand("-np", "1")
    assert found.host > 16 * GIB
    assert found.least == pytest.approx(5 * GIB + GIB // 2, rel=0.1)


def test_all_layers_on_one_gpu() -> None:
    found = demand("-c", "8192", "-np", "1", "-ngl", "99", gpus={0: 24 * GIB})
    assert found.mapped == {"/m/7b.gguf": 0}
    assert found.gpus[0] == pytest.approx(6.3 * GIB, rel=0.1)
    assert found.host < GIB
    assert not found.fits_itself


def test_half_of_the_layers_leave_half_of_it_behind() -> None:
    found = demand("-c", "8192", "-np", "1", "-ngl", "16", gpus={0: 24 * GIB})
    assert found.gpus[0] == pytest.approx(3.2 * GIB, rel=0.15)
    assert found.mapped["/m/7b.gguf"] == pytest.approx(1 * GIB, rel=0.1)


def test_a_cache_that_stays_with_the_cpu() -> None:
    there = demand("-c", "8192", "-np", "1", "-ngl", "99", gpus={0: 24 * GIB})
    here = demand("-c", "8192", "-np", "1", "-ngl", "99", "-nkvo", gpus={0: 24 * GIB})
    assert there.gpus[0] - here.gpus[0] == GIB
    assert here.host - there.host == GIB


def test_as_many_layers_as_there_is_room_for() -> None:
    found = demand("-c", "8192", "-np", "1", gpus={0: 4 * GIB})
    assert found.fits_itself
    assert found.gpus[0] < 4 * GIB
    assert found.mapped["/m/7b.gguf"] > 0


def test_several_gpus_share_by_their_size() -> None:
    found = demand("-c", "8192", "-np", "1", "-ngl", "99", gpus={0: 24 * GIB, 1: 8 * GIB})
    assert found.gpus[0] == pytest.approx(3 * found.gpus[1], rel=0.01)


def test_without_enough_in_the_header_there_is_no_demand() -> None:
    bare = Weights({"/m/x.gguf": GIB}, Metadata(architecture="mystery"))
    assert llama_server_demand(Command(("llama-server",), {}, "/"), bare, {}) is None


def test_what_a_profile_declares_goes_where_the_model_runs() -> None:
    assert declared_demand(GIB, None, ()) == Demand(host=GIB, declared=True)
    assert declared_demand(GIB, None, (1,)) == Demand(gpus={1: GIB}, declared=True)
    estimated = demand("-c", "8192", "-np", "1", "-ngl", "99", gpus={0: 24 * GIB})
    found = declared_demand(9 * GIB, estimated, ())
    assert (found.host, found.gpus) == (estimated.host, {0: 9 * GIB})
