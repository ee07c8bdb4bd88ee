"""Where the repository is: its configs, and the project's own list of what a config may call."""

from __future__ import annotations

import sys
from pathlib import Path


def repository() -> Path:
    """The folder with `train.py` and `configs/`: of the train.py that runs, the current one, or the package's checkout.

    Raises:
        ValueError: none of them has both.
    """
    program = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    checkout = Path(__file__).resolve().parents[3]
    running = [program.resolve().parent] if program.name == "train.py" else []
    for folder in (*running, Path.cwd(), checkout):
        if (folder / "train.py").is_file() and (folder / "configs" / "train.yaml").is_file():
            return folder
    raise ValueError(
        f"found no train.py with configs/train.yaml in {Path.cwd()} or {checkout}; change into a clone of the "
        "repository, its configs are not part of the installed package"
    )
