"""A compilation that ends the process, as a failed assertion inside of the compiler does."""

import os

from litespark.ops.triton_support import Compilation, Target


class EndsTheProcess:
    __name__ = "ends_the_process"

    @property
    def params(self) -> None:
        os.abort()


def compilations(target: Target) -> list[Compilation]:
    return [Compilation("the last words", EndsTheProcess(), {})]
