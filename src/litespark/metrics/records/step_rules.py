"""What the values of a record of whole steps must be, and be to each other, beyond their types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from litespark.metrics.records.strict_json import RecordError

if TYPE_CHECKING:
    from litespark.metrics.records.step import RoundRecord, StepRecord, VariantRecord

_RECOMPUTE = ("none", "swiglu", "full")


def check_steps(record: StepRecord) -> None:
    """Refuse what no measurement could have come to.

    Raises:
        RecordError: a rule is broken; the message names the variant and the round.
    """
    for problem in _problems(record):
        raise RecordError(problem)


def _problems(record: StepRecord) -> Iterator[str]:
    names = [each.name for each in record.variants]
    if len(set(names)) < len(names):
        yield f"variants: got the names {names}, expected each once"
    yield from _model(record)
    for variant in record.variants:
        yield from _variant(variant, record)
    yield from _same_tokens(record)
    if record.complete:
        for variant in record.variants:
            if variant.reason is None and not _all_there(variant, record.protocol.rounds):
                yield f"complete: got true without all rounds of {variant.name}, expected false"


def _model(record: StepRecord) -> Iterator[str]:
    model, rates = record.model, record.rates
    if not 1 <= model.num_layers <= model.layers_whole:
        yield f"model.num_layers: got {model.num_layers} of {model.layers_whole}, expected 1 to all of them"
    again = model.flops_per_token_recomputed
    if not 0 < model.flops_per_token_causal <= min(model.flops_per_token_full, again or model.flops_per_token_full):
        yield (
            f"model: got {model.flops_per_token_causal} causal, {model.flops_per_token_full} full and {again} "
            "recomputed FLOPs per token, expected the causal ones above 0 and the fewest"
        )
    for name, rate in vars(rates).items():
        if isinstance(rate, float) and not rate > 0:
            yield f"rates.{name}: got {rate}, expected a positive rate, or null"
    if (rates.peak_flops is None) != (rates.peak_source is None):
        yield f"rates: got a peak of {rates.peak_flops} from {rates.peak_source}, expected both or neither"


def _variant(variant: VariantRecord, record: StepRecord) -> Iterator[str]:
    where = f"variants.{variant.name}"
    if variant.reason is not None and variant.rounds:
        yield f"{where}: got rounds and a reason why there can be none, expected one of the two"
    classes = [part.kernel_class for part in variant.floor]
    if len(set(classes)) < len(classes) or any(part.milliseconds < 0 for part in variant.floor):
        yield f"{where}.floor: got {variant.floor}, expected each class once and no time below 0"
    hardware = variant.hardware_flops_per_token
    if hardware is not None and hardware < record.model.flops_per_token_causal:
        yield f"{where}.hardware_flops_per_token: got {hardware}, expected no less than the model's"
    for each in variant.rounds:
        yield from _round(each, f"{where}.rounds[{each.round}]", record)
    if (twice := _repeated(each.round for each in variant.measured)) is not None:
        yield f"{where}: got round {twice} measured more than once, expected one process for a round"


def _round(each: RoundRecord, where: str, record: StepRecord) -> Iterator[str]:
    protocol = record.protocol
    if not 0 <= each.round < protocol.rounds:
        yield f"{where}: got round {each.round}, expected 0 to {protocol.rounds - 1}"
    if each.outcome != "measured":
        if each.step_ms or each.tokens or each.loss is not None or each.joules is not None or each.error is None:
            yield f"{where}: {each.outcome!r} has figures, or no error; expected the opposite"
        return
    if each.error is not None:
        yield f"{where}: got figures and the error {each.error!r}, expected one of the two"
    if each.recompute not in _RECOMPUTE:
        yield f"{where}.recompute: got {each.recompute!r}, expected one of {', '.join(_RECOMPUTE)}"
    if len(each.step_ms) != protocol.steps or not all(time > 0 for time in each.step_ms):
        yield f"{where}.step_ms: got {len(each.step_ms)} times, expected {protocol.steps} above 0"
    if each.tokens <= 0 or each.attention_pairs <= 0 or each.loss is None or each.loss < 0:
        yield f"{where}: got no tokens, pairs or loss, expected all of them"
    if len(each.train_loss) not in (0, protocol.warmup_steps + protocol.steps):
        yield f"{where}.train_loss: got {len(each.train_loss)}, expected one of each step, warm-up included, or none"
    if (each.joules is None) == (each.joules_reason is None):
        yield f"{where}: expected either joules or a reason why there are none"
    for name, value in (("joules", each.joules), ("peak_memory_mib", each.peak_memory_mib)):
        if value is not None and not value > 0:
            yield f"{where}.{name}: got {value}, expected more than 0, or null where it was not measured"


def _same_tokens(record: StepRecord) -> Iterator[str]:
    """Every process takes the same steps on the same tokens: other counts or another hash are of other data."""
    first: tuple[str, int, int] | None = None
    known: tuple[str, str] | None = None
    for variant in record.variants:
        for each in variant.measured:
            where = f"variants.{variant.name}.rounds[{each.round}]"
            if first is None:
                first = (variant.name, each.tokens, each.attention_pairs)
            elif (each.tokens, each.attention_pairs) != first[1:]:
                yield (
                    f"{where}: got {each.tokens} tokens and {each.attention_pairs} pairs, expected the {first[1]} and "
                    f"{first[2]} of {first[0]}: all variants take the same tokens"
                )
            if each.tokens_hash is None:
                continue
            if known is None:
                known = (variant.name, each.tokens_hash)
            elif each.tokens_hash != known[1]:
                yield (
                    f"{where}.tokens_hash: got {each.tokens_hash}, expected the {known[1]} of {known[0]}: all variants "
                    "take the same tokens"
                )


def _all_there(variant: VariantRecord, rounds: int) -> bool:
    if variant.rounds and variant.rounds[-1].outcome == "out of memory":
        return True
    return {each.round for each in variant.measured} >= set(range(rounds))


def _repeated(numbers: Iterable[int]) -> int | None:
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            return number
        seen.add(number)
    return None
