"""Train a Llama: `python train.py experiment=NAME key=value …`; see configs/train.yaml for what can be set."""

import hydra
from omegaconf import DictConfig

from litespark.light_torchmetrics import import_lightly
from litespark.run.job import run_job, start
from litespark.threads import decide_threads


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> str:
    """Run one job."""
    return run_job(config)


if __name__ == "__main__":
    decide_threads()  # before torch is imported, which a job does
    import_lightly()
    start(main)
