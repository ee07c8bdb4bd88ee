"""`litespark plan`: what each of many ranks will hold and send, before there are any."""

from typing import Annotated

from litespark.cli.configs import Overrides, number, tell
from litespark.ranges import Positive, Processes


def plan(
    overrides: Overrides,
    *,
    nodes: Annotated[int, number(Processes, "Machines")] = 1,
    gpus_per_node: Annotated[int, number(Processes, "GPUs of each")] = 8,
    inside: Annotated[float, number(Positive, "GB/s that a GPU sends within a machine")] = 450.0,
    across: Annotated[float, number(Positive, "GB/s that a GPU sends to other machines")] = 50.0,
) -> int:
    """Compute what a rank holds and sends, under every strategy or the one that is chosen.

    Nothing is measured and no GPU is needed. Links are by default those of an H200: NVLink, and 400 Gb/s a GPU.
    """
    from litespark.benchmarks.ranks import plan_ranks
    from litespark.planning.ranks import Layout, Links
    from litespark.reports.ranks import table

    plans, about, flops = plan_ranks(overrides, Layout(nodes, gpus_per_node), tell)
    print(table(plans, about=about, flops=flops, links=Links(inside * 1e9, across * 1e9)).text())
    return 0
