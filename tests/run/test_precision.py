"""In what a run computes: what fp8 asks of device and config, and what `auto` takes."""

from __future__ import annotations

import logging

import pytest
import torch

from litespark.device import Accelerator
from litespark.launch import Ranks
from litespark.planning.memory import training_state_bytes
from litespark.run.precision import precision_of
from litespark.run.preflight import place_of, preflight
from litespark.run.targets import ConfigError
from tests.run.composed import parts

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ALONE = Ranks(world_size=1, rank=0, local_rank=0, local_world_size=1)
LARGE = ("model=llama3b", "data.seq_len=4096", "data.micro_batch_size=4", "trainer.global_batch_size=4")


@pytest.fixture
def card(monkeypatch):
    """Sets what the one GPU of another machine is."""

    def be(capability: tuple[int, int] = (9, 0), *, bf16: bool = True, gibibytes: int = 141) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "A Card")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(Accelerator, "memory_bytes", gibibytes * 2**30)

    return be


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# ------------------------------------------------------------------ what is asked for


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0)])
def test_a_device_with_fp8_units_computes_in_fp8_over_activations_in_bf16(card, tmp_path, capability):
    card(capability)
    settings = parts(
        "precision=fp8", "model.intermediate_size=352", "trainer.accelerator=auto", f"paths.logs={tmp_path}"
    )
    machine = preflight(settings, ALONE)
    place = place_of(settings, machine.device, machine.precision)
    assert (machine.precision, place.dtype, place.autocast) == ("fp8", torch.bfloat16, True)


def test_a_device_without_fp8_units_says_what_it_has_and_what_to_do(card, no_gpu):
    with pytest.raises(
        ConfigError, match=r"precision=fp8: a device of type cpu has no fp8 units; set precision=fp32, or pr"
    ):
        precision_of(parts("precision=fp8"), CPU)
    card((8, 6))
    with pytest.raises(
        ConfigError,
        match=r"fp8: A Card has compute capability 8\.6, and fp8 units came with 8\.9 .*=bf16.*simulate=true",
    ):
        precision_of(parts("precision=fp8"), GPU)


def test_simulated_it_runs_anywhere_and_on_a_cpu_everything_else_is_in_fp32(card, no_gpu):
    settings = parts("precision=fp8", "precision.fp8.simulate=true")
    assert precision_of(settings, CPU) == "fp8"
    place = place_of(settings, CPU, "fp8")
    assert (place.dtype, place.autocast) == (torch.float32, False)
    card((8, 0))
    assert precision_of(settings, GPU) == "fp8"
    card((7, 0), bf16=False)
    with pytest.raises(ConfigError, match=r"precision=fp8: A Card has no bf16 units .* use precision=fp32"):
        precision_of(settings, GPU)


def test_sizes_that_fp8_units_do_not_take_are_refused_but_where_they_are_simulated(card):
    card()
    odd = ("precision=fp8", "model.intermediate_size=344", "data.seq_len=8", "data.micro_batch_size=1")
    with pytest.raises(
        ConfigError, match=r"precision=fp8: the feed-forward width F is 344 and the tokens.* is 8, .*change these sizes"
    ):
        precision_of(parts(*odd), GPU)
    assert precision_of(parts(*odd, "precision.fp8.simulate=true"), GPU) == "fp8"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy=fsdp"], "precision=fp8: got strategy=fsdp, expected single or ddp.*set strategy=ddp, or precision"),
        (["ops.compile=block"], r"precision=fp8: got ops\.compile=block, expected none.*set ops\.compile=none"),
        (
            ["model.num_layers=3", "precision.fp8.bf16_first=1", "precision.fp8.bf16_last=2"],
            r"precision\.fp8: got bf16_first=1 and bf16_last=2, expected less together than the 3 layers",
        ),
    ],
)
def test_what_does_not_go_with_fp8_is_refused(card, overrides, message):
    card()
    with pytest.raises(ConfigError, match=message):
        precision_of(parts("precision=fp8", "model.intermediate_size=352", *overrides), GPU)
    with pytest.raises(ConfigError, match=message):
        precision_of(parts("precision=fp8", "precision.fp8.simulate=true", *overrides), CPU)
    assert precision_of(parts("precision=bf16", *overrides), GPU) == "bf16"


def test_a_run_that_waits_for_a_gpu_is_told_of_the_gpu_alone(no_gpu, tmp_path):
    with pytest.raises(ConfigError, match="got no gpu") as caught:
        preflight(parts("precision=fp8", "trainer.accelerator=gpu", f"paths.logs={tmp_path}"), ALONE)
    assert "fp8 units" not in str(caught.value)


def test_weights_in_fp8_count_in_the_memory_that_a_run_needs(card, tmp_path):
    large = parts("model=llama3b", "precision=fp8").model
    between = (training_state_bytes(large) // 2**30) + 1
    card(gibibytes=between)
    with pytest.raises(ConfigError, match=r"memory: .* A Card has"):
        preflight(parts(*LARGE, "precision=fp8", "trainer.accelerator=auto", f"paths.logs={tmp_path}"), ALONE)
    preflight(parts(*LARGE, "precision=bf16", "trainer.accelerator=auto", f"paths.logs={tmp_path}"), ALONE)


# ------------------------------------------------------------------ auto


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "fp8"),
        (["data.micro_batch_size=1"], "bf16"),
        # large, and no multiple of what fp8 units take
        (["model.intermediate_size=8200"], "bf16"),
        # the narrow one stays in bf16
        (["model.intermediate_size=2048"], "bf16"),
        (["model.intermediate_size=2048", "precision.fp8.linears=[qkv,output,gate_up]"], "fp8"),
        (["strategy=fsdp"], "bf16"),
        (["precision.fp8.simulate=true"], "bf16"),
        # without fused casts it would not be faster
        (["ops=reference"], "bf16"),
        # whose casts are never fused
        (["precision.fp8.recipe=tensorwise"], "bf16"),
    ],
)
def test_auto_takes_fp8_where_it_pays_and_nothing_stands_against_it(card, overrides, expected):
    card()
    assert precision_of(parts(*LARGE, "precision=auto", *overrides), GPU) == expected


@pytest.mark.parametrize(
    ("capability", "bf16", "expected"), [((8, 9), True, "fp8"), ((8, 0), True, "bf16"), ((7, 5), False, "fp32")]
)
def test_auto_takes_the_best_that_the_device_has(card, capability, bf16, expected):
    card(capability, bf16=bf16)
    assert precision_of(parts(*LARGE, "precision=auto"), GPU) == expected
    assert precision_of(parts(*LARGE, "precision=auto"), CPU) == "fp32"


@pytest.mark.parametrize(
    ("capability", "overrides", "line"),
    [
        ((9, 0), [], "precision=auto: fp8, since A Card has fp8 units, and the products are large enough"),
        (
            (8, 0),
            [],
            "precision=auto: bf16, since A Card has compute capability 8.0, and fp8 units came with 8.9 (Ada)",
        ),
    ],
)
def test_one_line_says_what_auto_took_and_why(card, caplog, tmp_path, capability, overrides, line):
    card(capability)
    caplog.set_level(logging.INFO)
    settings = parts(*LARGE, "precision=auto", "trainer.accelerator=auto", f"paths.logs={tmp_path}", *overrides)
    preflight(settings, ALONE)
    (said,) = [record.getMessage() for record in caplog.records if "precision" in record.getMessage()]
    assert line in said
    caplog.clear()
    preflight(parts(*LARGE, "precision=bf16", "trainer.accelerator=auto", f"paths.logs={tmp_path}"), ALONE)
    assert "precision" not in caplog.text
