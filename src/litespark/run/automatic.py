"""`resume=auto`: the same command line starts a named run, and continues it after a requeue or an elastic restart."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from litespark.mesh import Mesh
from litespark.run.folder import CHECKPOINTS
from litespark.run.targets import ConfigError
from litespark.training.checkpoint.folder import finished

AUTO = "auto"


def is_automatic(config: DictConfig) -> bool:
    return OmegaConf.select(config, "resume") == AUTO


def with_found_run(config: DictConfig) -> DictConfig:
    """The config with `resume=auto` replaced by the folder of the run, or by null where it has saved nothing yet.

    What is saved is verified later; where none of it is valid, that is an error and no new start.
    """
    name, logs = OmegaConf.select(config, "name"), OmegaConf.select(config, "paths.logs")
    if not name:
        raise ConfigError(
            f"resume={AUTO}: got no name, expected that of the run to start, or to continue once it has saved; set "
            "name=NAME"
        )
    folder = Path(str(logs)) / "runs" / str(name)
    with open_dict(config := config.copy()):
        config["resume"] = str(folder) if finished(folder / CHECKPOINTS) else None
    return config


def check_found_alike(resume: str | None, name: str | None, mesh: Mesh) -> None:
    """Refuse ranks that found different things, which would go on at different steps; a collective."""
    found = mesh.gather(resume is not None)
    if len(set(found)) > 1:
        without = ", ".join(str(rank) for rank, has in enumerate(found) if not has)
        raise ConfigError(
            f"resume={AUTO}: got no checkpoint of {name} on rank {without}, while other ranks have some; expected one "
            "folder for all machines. Set paths.logs to a disk that they share"
        )
