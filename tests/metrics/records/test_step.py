"""A record of whole steps that no measurement could have come to is refused, whatever its seal says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from litespark.metrics.records.step import FloorPart, StepRecord
from litespark.metrics.records.strict_json import RecordError
from tests.metrics.step_records import lost, ours, record, round_, standard


def _set(owner: str, name: str, value: object) -> Callable[[StepRecord], None]:
    """Gives a part of the record another value: the record, its `model`, `rates`, or `standard` and its first round."""

    def change(found: StepRecord) -> None:
        parts = {"record": found, "variant": found.variants[0], "round": found.variants[0].rounds[0]}
        setattr(parts.get(owner) or getattr(found, owner), name, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("variant", "name", "litespark"), r"got the names \['litespark', 'litespark'\]"),
        (_set("model", "num_layers", 3), "model.num_layers: got 3 of 2"),
        (_set("model", "num_layers", 0), "model.num_layers: got 0 of 2"),
        (_set("model", "flops_per_token_full", 1200.0), "expected the causal ones above 0 and the fewest"),
        (_set("model", "flops_per_token_recomputed", 1200.0), "expected the causal ones above 0 and the fewest"),
        (_set("model", "flops_per_token_causal", 0.0), "expected the causal ones above 0"),
        (_set("rates", "copy_bytes", 0.0), r"rates.copy_bytes: got 0.0"),
        (_set("rates", "peak_source", None), "expected both or neither"),
        (_set("variant", "reason", "no GPU"), "variants.standard: got rounds and a reason"),
        (_set("variant", "floor", [FloorPart("gemm", 1.0)] * 2), "standard.floor: .* each class once"),
        (_set("variant", "floor", [FloorPart("gemm", -1.0)]), "no time below 0"),
        (_set("variant", "hardware_flops_per_token", 1000.0), "got 1000.0, expected no less than the model's"),
        (_set("round", "round", 1), "got round 1 measured more than once"),
        (_set("round", "round", 2), "got round 2, expected 0 to 1"),
        (_set("round", "error", "it broke"), "got figures and the error 'it broke'"),
        (_set("round", "outcome", "failed"), "'failed' has figures"),
        (_set("round", "recompute", "half"), "recompute: got 'half'"),
        (_set("round", "step_ms", [40.0] * 3), "got 3 times, expected 4 above 0"),
        (_set("round", "step_ms", [40.0] * 3 + [0.0]), "got 4 times, expected 4 above 0"),
        (_set("round", "tokens", 64), r"litespark.rounds\[0\]|standard.rounds\[1\]: got 32 tokens .* the 64 and"),
        (_set("round", "attention_pairs", 79), "expected the 32 and 79 of standard: all variants take the same"),
        (_set("round", "tokens_hash", "0123"), r"tokens_hash: got ab, expected the 0123 of standard"),
        (_set("round", "loss", None), "got no tokens, pairs or loss"),
        (_set("round", "loss", -0.1), "got no tokens, pairs or loss"),
        (_set("round", "train_loss", [2.0] * 4), "train_loss: got 4, expected one of each step"),
        (_set("round", "joules", None), "either joules or a reason"),
        (_set("round", "joules", 0.0), "joules: got 0.0, expected more than 0"),
        (_set("round", "peak_memory_mib", 0.0), "peak_memory_mib: got 0.0, expected more than 0"),
        (_set("variant", "rounds", []), "complete: got true without all rounds of standard"),
    ],
)
def test_what_no_measurement_comes_to_is_refused(tmp_path, change, message):
    found = record(standard(), ours())
    found.check()
    change(found)
    path = tmp_path / "record.json"
    found.write(path)  # sealed anew
    with pytest.raises(RecordError, match=message):
        StepRecord.read(path)


def test_a_process_without_figures_has_none():
    for name, value in (("tokens", 32), ("joules", 1.0), ("loss", 2.0), ("error", None)):
        broken = lost(0, "failed")
        setattr(broken, name, value)
        with pytest.raises(RecordError, match="has figures, or no error"):
            record(_with(broken), complete=False).check()


def _with(*rounds):
    found = standard()
    found.rounds = list(rounds)
    return found


def test_a_variant_that_never_fits_is_complete():
    record(_with(lost(0, "out of memory"), lost(0, "out of memory", "full")), ours()).check()
    record(_with(round_(0, [40.0] * 4), lost(1, "out of memory", "full")), ours()).check()
    with pytest.raises(RecordError, match="without all rounds of standard"):
        record(_with(round_(0, [40.0] * 4), lost(1, "failed")), ours()).check()
