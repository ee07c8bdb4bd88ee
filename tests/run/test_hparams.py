"""TensorBoard's HParams: what was set first, no targets, and no curves of a single point."""

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from litespark.metrics import names
from litespark.run.hparams import settings_shown, write_hparams
from tests.run.composed import parts


def test_what_was_set_comes_first_and_targets_and_folders_are_left_out():
    resolved = parts("optim.weight_decay=0.2", "model.num_layers=2").resolved
    shown = settings_shown(resolved, ["optim.weight_decay=0.2", "model.num_layers=2", "paths.logs=/tmp", "+x=1"])
    assert list(shown)[:2] == ["optim/weight_decay", "model/num_layers"]
    assert not any("_target_" in key or "paths" in key for key in shown)
    assert shown["optim/betas"] == "[0.9, 0.95]"
    assert {"seed", "ops/attention", "precision/name"} <= shown.keys()


def test_results_are_the_curves_that_are_there(tmp_path):
    logger = TensorBoardLogger(save_dir=tmp_path, name="", version="", default_hp_metric=False)
    for step in (1, 2):
        logger.log_metrics({names.VALIDATION_LOSS: 3.0 - step}, step)
    write_hparams(logger, {"optim/lr": 1e-3}, [names.VALIDATION_LOSS, "progress/tokens"])
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == [names.VALIDATION_LOSS]
    assert [point.step for point in events.Scalars(names.VALIDATION_LOSS)] == [1, 2]
    content = events.PluginTagToContent("hparams")["_hparams_/experiment"]
    experiment = HParamsPluginData.FromString(content).experiment
    assert [info.name for info in experiment.hparam_infos] == ["optim/lr"]
    assert [info.name.tag for info in experiment.metric_infos] == [names.VALIDATION_LOSS]
