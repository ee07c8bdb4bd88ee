"""`litespark verify`: each fast op of a run against its reference, on this device."""

from __future__ import annotations

import argparse

from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.epilog = (
        "Exit code 0: every backend that the config asks for was run forward and backward beside its reference, at the "
        "widths and lengths of the config, and is right. With `auto`, every backend that can run here is. Without a "
        "GPU, Triton's interpreter runs the kernels at small sizes, which verifies their arithmetic and not the "
        "compiled code."
    )


def _verify(options: argparse.Namespace) -> int:
    from litespark.experiment.verify import verify_all

    verdict = verify_all(compose(options.overrides), say=lambda line: print(line, flush=True))
    return 0 if verdict else 1


VERIFY = Command("check each fast op against its reference on this device", _verify_arguments, _verify)
