"""Where the repository is, which settings its configs hold, and what a program gives its train.py."""

import sys
from pathlib import Path

import yaml

from litespark.run.folder import dotted

# overrides for a train.py that a program of ours starts: no more than the run needs
QUIET = (
    "callbacks.progress=false",
    "callbacks.report=false",
    "callbacks.sample_prompt=null",
    "callbacks.checkpoint_every=null",
    "callbacks.checkpoint_at_end=false",
)


def repository() -> Path:
    """The folder of `train.py` and `configs/`: of a running train.py, the current one, or that of the package."""
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


def settings_of_files() -> dict[str, str]:
    """Every setting and group of the configs, dotted, with a choice that has it (`schedule=wsd`)."""
    configs = repository() / "configs"
    settings = dict.fromkeys(yaml.safe_load((configs / "train.yaml").read_text()), "") | {"data/selection": ""}
    for path in sorted(configs.glob("*/*.yaml")):
        group = path.parent.name
        settings.setdefault(group, "")
        if group not in ("experiment", "debug", "sweep", "hydra"):
            for key, _ in dotted(yaml.safe_load(path.read_text()) or {}, group):
                settings.setdefault(key, f"{group}={path.stem}")
    return {key: choice for key, choice in settings.items() if not key.endswith("defaults")}
