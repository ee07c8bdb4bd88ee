"""A record of `litespark bench ablation` made by hand: three switches, six combinations, two rounds.

A round has 32 tokens in four equal steps, so 320 ms are 100 tokens/s.
"""

from __future__ import annotations

from litespark.metrics.records.ablation import AblationRecord, KeyRecord, SwitchRecord, planned, settings_of
from litespark.metrics.records.step import RatesRecord, RoundRecord, VariantRecord
from tests.metrics import step_records

SWITCHES = [
    SwitchRecord("attention", [KeyRecord("ops.attention", "reference", "auto")]),
    SwitchRecord(
        "loss",
        [KeyRecord("ops.linear_cross_entropy", "reference", "auto"), KeyRecord("ops.rms_norm", "reference", "torch")],
    ),
    SwitchRecord("recompute", [KeyRecord("recompute.mode", "full", "none")]),
]
# milliseconds of all steps, joules and loss of each round
ROUNDS = {
    "baseline": [(320.0, 6.4, 2.0), (160.0, 3.2, 2.0)],  # 100 and 200 tokens/s, 0.2 and 0.1 J/token
    "plus_attention": [(160.0, 3.2, 2.001), (128.0, 2.4, 2.003)],  # 200 and 250, 0.1 and 0.075
    "plus_loss": [(128.0, 3.2, 2.0), (80.0, 2.4, 2.0)],  # 250 and 400, 0.1 and 0.075
    "target": [(64.0, 1.6, 1.999), (40.0, 1.6, 1.999)],  # 500 and 800, 0.05
    "without_attention": [(128.0, 3.2, 2.0), (64.0, 1.6, 2.0)],  # 250 and 500
    "without_loss": [(80.0, 1.6, 2.0), (50.0, 1.6, 2.0)],  # 400 and 640
}


def measured(number: int, milliseconds: float, joules: float | None, loss: float, **changes) -> RoundRecord:
    """A round in four equal steps."""
    return step_records.round_(number, [milliseconds / 4] * 4, joules, loss=loss, **changes)


def record(*, gpu: bool = True, energy: bool = True, **rounds: list[RoundRecord]) -> AblationRecord:
    """The ablation; `rounds` are those of the variants that are named, in place of what `ROUNDS` says."""
    variants: list[VariantRecord] = []
    for each in planned([switch.name for switch in SWITCHES]):
        usual = [
            measured(number, milliseconds, joules if energy else None, loss, peak_memory_mib=1000.0 + number)
            for number, (milliseconds, joules, loss) in enumerate(ROUNDS[each.name])
        ]
        settings = list(settings_of(SWITCHES, each.on))
        variants.append(step_records.variant(each.name, *rounds.get(each.name, usual), settings=settings))
    rates = {} if gpu else {"rates": RatesRecord(2e6, 3e6, 4e9)}
    step = step_records.record(*variants, gpu=gpu, **rates)
    return AblationRecord(
        step.provenance,
        step.model,
        step.protocol,
        step.rates,
        variants,
        baseline=["ops=reference", "recompute=full"],
        target=["ops=litespark", "recompute=none"],
        switches=SWITCHES,
    )
