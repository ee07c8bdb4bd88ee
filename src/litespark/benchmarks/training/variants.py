"""The questions that are asked, the ways to train that are held against each other, and what these may differ in."""

from collections.abc import Sequence
from dataclasses import dataclass

from litespark.benchmarks.session import NAME, check_measurable, check_plain
from litespark.data.config import SyntheticConfig
from litespark.metrics.records.training import PreparedCorpus
from litespark.run.config import ConfigError, Parts, differences

# how a model is trained, and how its sequences are read; everything else is what is trained, on which, seen when
_FREE = ("ops", "precision", "recompute", "optim", "schedule",
         "data.micro_batch_size", "data.workers", "data.verify_hashes")  # fmt: skip
_FREE_OF_A_CORPUS = ("data.selection", "data.tokenizer")


@dataclass(frozen=True)
class Variant:
    """A name and the overrides that make it from the benchmark's config."""

    name: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Composed:
    """A variant, all overrides that make its config, the config, and what it prepared where there is a corpus."""

    variant: Variant
    overrides: list[str]
    parts: Parts
    prepared: PreparedCorpus | None = None


@dataclass(frozen=True)
class Question:
    """What is asked of variants: with the same tokens, or `to_target`; the first is what others are held against."""

    name: str
    variants: tuple[Variant, ...]
    to_target: bool = False


PARITY = Question(
    "parity",
    (
        Variant("bf16", ("precision=bf16",)),
        Variant("fp8", ("precision=fp8", "precision.fp8.recipe=delayed")),
        Variant("fp8_tensorwise", ("precision=fp8", "precision.fp8.recipe=tensorwise")),
    ),
)
TO_LOSS = Question(
    "to-loss",
    (
        Variant("reference", ("ops=reference", "optim=adamw", "schedule=cosine")),
        Variant("litespark", ("ops=litespark", "optim=adamw", "schedule=cosine")),
        Variant("muon", ("ops=litespark", "optim=muon", "schedule=wsd")),
    ),
    to_target=True,
)
SELECTION = Question(
    "selection", (Variant("all", ("data/selection=none",)), Variant("selected", ("data/selection=web",)))
)


def parse(text: str, defaults: Sequence[Variant]) -> Variant:
    """The variant that `NAME: OVERRIDE OVERRIDE …` means, or that of `defaults` which a name alone means."""
    name, colon, settings = (part.strip() for part in text.partition(":"))
    known = {default.name: default for default in defaults}
    if not colon and name in known:
        return known[name]
    if not colon or not NAME.fullmatch(name):
        raise ValueError(
            f"--variant: got {text!r}, expected one of {', '.join(known)}, or a name of letters and digits with the "
            "overrides that make it: --variant 'muon: ops=litespark optim=muon'"
        )
    return Variant(name, tuple(settings.split()))


def check_question(question: Question, parts: Parts, overrides: Sequence[str], variants: Sequence[Variant]) -> None:
    """Refuse what cannot be answered, and runs that a benchmark cannot start, name and continue by itself."""
    check_plain(overrides)
    target, names = parts.budget.target_bpb, [variant.name for variant in variants]
    if question.to_target and target is None:
        raise ConfigError("budget.target_bpb: got null, expected the bits per byte at which runs end: --target-bpb 1.2")
    if not question.to_target and target is not None:
        raise ConfigError(
            f"budget.target_bpb: got {target}, expected null: losses are compared at equal tokens; for the cost to a "
            "target use litespark bench to-loss"
        )
    least = 1 if question.to_target else 2
    if len(names) < least or len(set(names)) < len(names):
        raise ConfigError(f"--variant: got {', '.join(names) or 'none'}, expected at least {least} and each once")
    if isinstance(parts.data, SyntheticConfig):
        raise ConfigError("data=synthetic: nothing can be learned from it; expected text, as data=installed_packages")
    if parts.trainer.validate_every is None:
        raise ConfigError(
            "trainer.validate_every: got null, expected the steps between two validations, by which runs are "
            "compared; set trainer.validate_every=100"
        )
    check_measurable(parts)
    if parts.name is not None:
        raise ConfigError(f"name={parts.name}: the benchmark names its runs and continues them by itself; leave it out")


def check_variants(parts: Parts, variants: Sequence[Composed]) -> None:
    """Refuse variants that would not train the same model on the same stream; a corpus is theirs to select from."""
    for variant in variants:
        free = _FREE if variant.prepared is None else (*_FREE, *_FREE_OF_A_CORPUS)
        different = [
            key
            for key in differences(parts.resolved, variant.parts.resolved)
            if not any(f"{key}.".startswith(f"{prefix}.") for prefix in free)
        ]
        if different:
            raise ConfigError(
                f"--variant {variant.variant.name}: got settings that change {', '.join(different)}, expected the same "
                "model and stream for every variant; give them as overrides of the whole benchmark instead"
            )
