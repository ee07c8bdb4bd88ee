"""Layers of families as they are counted: their products are those of the model, and a patch of others is undone."""

import dataclasses
import shlex
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.olmo2 import modeling_olmo2

from litespark.benchmarks.traffic.families import LIGER, OURS, UNMODIFIED
from litespark.benchmarks.traffic.family_models import FAMILY_MODELS
from litespark.benchmarks.traffic.family_session import count_family
from litespark.metrics.records.traffic import FamiliesRecord, FamilyTraffic
from litespark.models.huggingface.counts import counts_of
from litespark.reports.family_traffic import behind, outside_products

RESULTS = Path(__file__).resolve().parents[2] / "results"
RECORD = FamiliesRecord.read(max((RESULTS / "counted").glob("*_bench-families_*.json")))
SEQUENCES, LENGTH = 2, 256
SMALL = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 96, "num_attention_heads": 4}


def _small(name):
    family = FAMILY_MODELS[name]
    sizes = (
        family.sizes
        | SMALL
        | {"head_dim": 32, "num_key_value_heads": 2, "pad_token_id": 0, "query_pre_attn_scalar": 32}
    )
    return dataclasses.replace(family, sizes=sizes)


def _layer(variant, phase="first"):
    return {one.kernel_class: one.layer for one in variant.classes if one.phase == phase}


@pytest.mark.parametrize("name", [pytest.param("qwen2.5", marks=pytest.mark.slow), "gemma3"])
def test_products_are_those_of_the_model_and_ours_moves_less_beside_them(name):
    family = _small(name)
    one, two = (
        counts_of(CONFIG_MAPPING[family.model_type](**family.sizes, num_hidden_layers=layers)).matmul_parameters
        for layers in (1, 2)
    )
    theirs, ours = (count_family(family, variant, SEQUENCES, LENGTH) for variant in (UNMODIFIED, OURS))
    for variant in (theirs, ours):
        assert _layer(variant)["gemm"].flops == 6 * (two - one) * SEQUENCES * LENGTH
        assert _layer(variant, "later")["gemm"].flops == _layer(variant)["gemm"].flops
    assert outside_products(ours) < 0.5 * outside_products(theirs)
    assert behind(FamilyTraffic(name, family.name, [theirs, ours])) is None
    other_way = [dataclasses.replace(ours, name=UNMODIFIED), dataclasses.replace(theirs, name=OURS)]
    assert "litespark moves" in behind(FamilyTraffic(name, family.name, other_way))


def test_the_patch_of_liger_is_counted_and_undone():
    pytest.importorskip("liger_kernel")
    before, forward = dict(vars(modeling_olmo2)), modeling_olmo2.Olmo2ForCausalLM.forward
    family = _small("olmo2")
    patched, plain = (count_family(family, variant, SEQUENCES, LENGTH) for variant in (LIGER, UNMODIFIED))
    assert outside_products(patched) < 0.5 * outside_products(plain)
    assert _layer(patched)["gemm"].flops == _layer(plain)["gemm"].flops
    assert vars(modeling_olmo2) == before
    assert modeling_olmo2.Olmo2ForCausalLM.forward is forward


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("llama3", "gemma2")), "olmo2"]
)
def test_a_layer_moves_what_the_shipped_record_holds(name):
    (recorded,) = (variant for variant in _recorded()[name].variants if variant.name == OURS)
    now = count_family(FAMILY_MODELS[name], OURS, RECORD.sequences, RECORD.seq_len)
    assert (now.classes, now.saved) == (recorded.classes, recorded.saved), (
        f"if that is meant, renew the record: {shlex.join(RECORD.provenance.command)}"
    )


def test_ours_moves_less_than_others_in_every_family():
    families = _recorded()
    assert families.keys() == FAMILY_MODELS.keys()
    assert {name: behind(family) for name, family in families.items()} == dict.fromkeys(families)
    for family in families.values():  # as docs/models.md says, with products too
        moved = {one.name: sum(counts.moved for counts in _layer(one).values()) for one in family.variants}
        assert min(moved, key=moved.__getitem__) == OURS, family.model


def _recorded():
    return {family.family: family for family in RECORD.families}
