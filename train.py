"""Train a Llama: `python train.py experiment=NAME key=value …`; see configs/train.yaml for what can be set."""

import logging
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

# saved and asked to be continued: EX_TEMPFAIL of sysexits.h
STOPPED_AND_SAVED = 75
# stopped before there was anything to save: 128 + SIGINT, as shells count
CTRL_C = 130


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> str:
    """Run one job; a mistake of the user's is one short message and exit code 1, a bug keeps its traceback."""
    try:
        from litespark.experiment.run import USER_ERRORS, Interrupted, train
    except KeyboardInterrupt:
        sys.exit(CTRL_C)
    try:
        return str(train(config))
    except KeyboardInterrupt:
        print("Stopped before the first step.", file=sys.stderr)
        sys.exit(CTRL_C)
    except Interrupted:
        sys.exit(STOPPED_AND_SAVED)
    except USER_ERRORS as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs go on, Hydra shows only the first failure
            logging.getLogger(__name__).error("job failed: %s", error)
        raise CompactHydraException(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
