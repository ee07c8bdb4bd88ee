"""Nothing is launched."""

from litespark.ops.triton_support import Launches, Target


def launches(target: Target) -> Launches:
    return []
