"""In what a run computes: what fp8 asks of device and config, and what `auto` takes."""

from __future__ import annotations

import logging

import pytest
import torch

from litespark.launch import ALONE
from litespark.planning.memory import training_state_bytes
from litespark.run.build import construct_module
from litespark.run.measured_precision import precision_of
from litespark.run.preflight import Machine, place_of, preflight
from litespark.run.targets import ConfigError
from tests.data.prepared_manifest import manifest
from tests.run.composed import SMALL, parts

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
LARGE = ("model=llama3b", "data.seq_len=4096", "data.micro_batch_size=4", "trainer.global_batch_size=4")


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0)])
def test_a_device_with_fp8_units_computes_in_fp8_over_activations_in_bf16(card, logs, capability):
    card(capability)
    settings = parts("precision=fp8", "model.intermediate_size=352", "trainer.accelerator=auto", logs)
    machine = preflight(settings, ALONE)
    place = place_of(settings, machine.device, machine.precision)
    assert (machine.precision, place.dtype, place.autocast) == ("fp8", torch.bfloat16, True)


def test_a_device_without_fp8_units_says_what_it_has_and_what_to_do(card, no_gpu):
    fp8 = parts("precision=fp8")
    with pytest.raises(ConfigError, match="fp8: a device of type cpu has no fp8 units; set precision=fp32, or pr"):
        precision_of(fp8, CPU)
    card((8, 6))
    with pytest.raises(ConfigError, match=r"compute capability 8\.6, and fp8 units came with 8\.9 .*=bf16.*simulate"):
        precision_of(fp8, GPU)


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


@pytest.mark.parametrize(
    ("precision", "residual", "expected"),
    [("bf16", "fp32", torch.float32), ("bf16", "bf16", torch.bfloat16), ("fp32", "bf16", torch.float32)],
)
def test_the_residual_stream_has_the_dtype_of_the_settings_where_activations_are_bf16(precision, residual, expected):
    settings = parts(*SMALL, f"precision={precision}", f"precision.residual={residual}")
    module, _ = construct_module(settings, Machine(CPU, precision, 1, ALONE), manifest())
    assert module.model.residual_dtype == place_of(settings, CPU, precision).stream_dtype == expected


def test_sizes_that_fp8_units_do_not_take_are_refused_but_where_they_are_simulated(card):
    card()
    odd = ("precision=fp8", "model.intermediate_size=344", "data.seq_len=8", "data.micro_batch_size=1")
    with pytest.raises(ConfigError, match=r"fp8: intermediate_size F is 344 and the tokens.* is 8, .*change"):
        precision_of(parts(*odd), GPU)
    assert precision_of(parts(*odd, "precision.fp8.simulate=true"), GPU) == "fp8"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("strategy=fsdp", "precision=fp8: got strategy=fsdp, expected single or ddp.*set strategy=ddp, or precision"),
        ("ops.compile=block", r"precision=fp8: got ops\.compile=block, expected none.*set ops\.compile=none"),
        ("model.mlp_bias=true", r"precision=fp8: got model\.mlp_bias=true, expected .*; set precision=bf16"),
        ("precision.fp8.bf16_last=3 model.num_layers=3", "fp8: got .*bf16_last=3, expected less .* than the 3 layers"),
    ],
)
def test_what_does_not_go_with_fp8_is_refused(card, overrides, message):
    card()
    with pytest.raises(ConfigError, match=message):
        precision_of(parts("precision=fp8", "model.intermediate_size=352", *overrides.split()), GPU)
    with pytest.raises(ConfigError, match=message):
        precision_of(parts("precision=fp8", "precision.fp8.simulate=true", *overrides.split()), CPU)
    assert precision_of(parts("precision=bf16", *overrides.split()), GPU) == "bf16"


def test_a_run_that_waits_for_a_gpu_is_told_of_the_gpu_alone(no_gpu, logs):
    with pytest.raises(ConfigError, match="got no gpu") as caught:
        preflight(parts("precision=fp8", "trainer.accelerator=gpu", logs), ALONE)
    assert "fp8 units" not in str(caught.value)


def test_weights_in_fp8_count_in_the_memory_that_a_run_needs(card, logs):
    large = parts("model=llama3b", "precision=fp8").model
    between = (training_state_bytes(large) // 2**30) + 1
    card(gibibytes=between)
    with pytest.raises(ConfigError, match=r"memory: .* A Card has"):
        preflight(parts(*LARGE, "precision=fp8", "trainer.accelerator=auto", logs), ALONE)
    preflight(parts(*LARGE, "precision=fp32", "trainer.accelerator=auto", logs), ALONE)


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


def test_one_line_says_what_auto_took_and_why(card, caplog, logs):
    caplog.set_level(logging.INFO)
    for capability, line in (
        ((9, 0), "fp8, since A Card has fp8 units, and the products are large enough"),
        ((8, 0), "bf16, since A Card has compute capability 8.0, and fp8 units came with 8.9 (Ada)"),
    ):
        card(capability)
        caplog.clear()
        preflight(parts(*LARGE, "precision=auto", "trainer.accelerator=auto", logs), ALONE)
        (said,) = [record.getMessage() for record in caplog.records if "precision" in record.getMessage()]
        assert f"precision=auto: {line}" in said
    caplog.clear()
    preflight(parts(*LARGE, "precision=fp32", "trainer.accelerator=auto", logs), ALONE)
    assert "precision" not in caplog.text
