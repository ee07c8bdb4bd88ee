"""Runs a script as `python SCRIPT WORDS` would, in a process that ends when the one that started it is gone.

`python -m litespark.benchmarks.training.watched SCRIPT WORDS`: a run that outlives a killed benchmark would take
the device from the run that the same command then starts anew, in the same folder.
"""

from __future__ import annotations

import runpy
import sys

from litespark.parent import end_with_parent


def main() -> None:
    """Run the script that the first argument names, with the others."""
    end_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
