"""`litespark bench WHAT`: one module a measurement, each with arguments of its own."""

from litespark.cli.bench.ablation import ABLATION
from litespark.cli.bench.data import DATA
from litespark.cli.bench.loop import LOOP
from litespark.cli.bench.ops import OPS
from litespark.cli.bench.profile import PROFILE
from litespark.cli.bench.step import STEP
from litespark.cli.bench.training import PARITY, SELECTION, TO_LOSS

BENCHES = {
    "ablation": ABLATION,
    "data": DATA,
    "loop": LOOP,
    "ops": OPS,
    "parity": PARITY,
    "profile": PROFILE,
    "selection": SELECTION,
    "step": STEP,
    "to-loss": TO_LOSS,
}
