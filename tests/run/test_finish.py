"""What follows the last step: HParams without targets and single points, projections of measured rates."""

from dataclasses import asdict

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from litespark.config.loop import ProjectionConfig
from litespark.metrics import names
from litespark.run.finish import project, settings_shown, write_hparams
from litespark.run.record import ProjectionRecord, ProjectionSettings
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


def test_the_arithmetic_of_a_full_projection():
    stated = ProjectionConfig(price_per_kwh=0.2, grid_kg_per_kwh=0.4, pue=1.5, currency="EUR")
    projection = project(10**9, tokens_per_second=1000.0, joules_per_token=0.36, stated=stated)
    expected = ProjectionRecord(10**9, 1e6 / 3600, 100.0, 30.0, "EUR", 60.0)
    assert asdict(projection) | {"settings": None} == pytest.approx(asdict(expected) | {"settings": None})
    assert projection.settings == ProjectionSettings(0.2, 0.4, 1.5)


@pytest.mark.parametrize(
    ("stated", "cost", "co2e"),
    [
        (ProjectionConfig(), None, None),
        (ProjectionConfig(price_per_kwh=0.2), None, None),  # no PUE: no guess that it is 1
        (ProjectionConfig(price_per_kwh=0.2, pue=1.0), 20.0, None),
        (ProjectionConfig(grid_kg_per_kwh=0.0, pue=1.0), None, 0.0),
    ],
)
def test_what_depends_on_an_unstated_setting_is_none(stated, cost, co2e):
    projection = project(10**9, tokens_per_second=1.0, joules_per_token=0.36, stated=stated)
    assert projection.kwh == pytest.approx(100.0)
    assert projection.cost == (None if cost is None else pytest.approx(cost))
    assert projection.co2e_kg == co2e


def test_unmeasured_rates_or_no_target_give_none():
    stated = ProjectionConfig(price_per_kwh=0.2, grid_kg_per_kwh=0.4, pue=1.1)
    for target, rate, joules in ((10, None, float("nan")), (None, 1.0, 1.0)):
        found = project(target, tokens_per_second=rate, joules_per_token=joules, stated=stated)
        assert (found.hours, found.kwh, found.cost, found.co2e_kg) == (None,) * 4
