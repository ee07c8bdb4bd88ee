"""`litespark verify`: each fast op of a run against its reference, on this device."""

from __future__ import annotations

from litespark.cli.configs import Overrides, compose


def verify(overrides: Overrides) -> int:
    """Check each fast op against its reference on this device.

    Exit code 0: every backend that the config asks for was run forward and backward beside its reference, at the
    widths and lengths of the config, and is right. With `auto`, every backend that can run here is. Without a GPU,
    Triton's interpreter runs the kernels at small sizes, which verifies their arithmetic and not the compiled code.
    """
    from litespark.run.verify import verify_all

    return 0 if verify_all(compose(overrides), say=lambda line: print(line, flush=True)) else 1
