"""A config cannot make Hydra call, import or set anything: each way is planted, and nothing happens."""

from __future__ import annotations

import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path

import hydra._internal.hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from litespark.cli import main
from litespark.run.hydra_settings import check_hydra
from tests.run.composed import CONFIGS

# stopped by our own code at the latest
HARMLESS = ("data=synthetic", "seed=-1")


def planted(folder: Path, text: str, name: str = "evil") -> None:
    """An experiment of that text, with {copy} for a call that makes a file."""
    (folder / "from").write_text("")
    copy = f"src: {folder}/from, dst: {folder}/to"
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / f"{name}.yaml").write_text("# @package _global_\n" + text.replace("{copy}", copy))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder for configs in which there is a package that leaves a mark when it is imported."""
    package = tmp_path / "path" / "planted_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'to')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setitem(os.environ, "HYDRA_FULL_ERROR", "1")  # as `start` sets it
    yield tmp_path
    sys.modules.pop("planted_package", None)


FILES = {
    "a callback": "hydra: {callbacks: {x: {_target_: shutil.copyfile, {copy}}}}",
    "a callback that is resolved": "x: {_target_: shutil.copyfile, {copy}}\nhydra: {callbacks: {x: '${x}'}}",
    "a logging factory": "hydra: {job_logging: {filters: {x: {(): shutil.copyfile, {copy}}}}}",
    "a logging class": "hydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: '{to}'}}}}",
    "a logging object": "hydra: {job_logging: {root: {level: 'ext://planted_package.x'}}}",
    "a logging object, resolved": "x: 'ext://planted_package.x'\nhydra: {job_logging: {root: {level: '${x}'}}}",
    "a sweeper": "hydra: {sweeper: {_target_: planted_package.X}}",
    "a sweeper's settings": "hydra: {mode: MULTIRUN, sweeper: {params: {_target_: shutil.copyfile, {copy}}}}",
    "within a sweeper's settings": "hydra: {mode: MULTIRUN, sweeper: {params: {x: '${y}'}}}\n"
    "y: {_target_: shutil.copyfile, {copy}}",
    "an environment": "hydra: {job: {env_set: {LITESPARK_ALLOWED_TARGETS: 'planted_package.'}}}\n"
    "optim: {_target_: planted_package.X}",
    "overrides of a sweep": "hydra: {mode: MULTIRUN, sweeper: {params: {+hydra.job_logging.handlers.x: "
    "'{class:logging.FileHandler,filename:{to}}'}}}",
}


@pytest.mark.parametrize("plant", FILES)
def test_an_experiment_file_makes_hydra_do_nothing(plant, world, capfd):
    planted(world, FILES[plant].replace("{to}", str(world / "to")))
    before = dict(os.environ)
    assert main(["train", f"--config-dir={world}", "experiment=evil", f"paths.logs={world}/logs", *HARMLESS]) == 1
    said = capfd.readouterr().err
    assert "which no config may set" in said
    assert "Traceback" not in said
    assert not (world / "to").exists()
    assert not (world / "logs" / "runs").exists()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "plant", ["a callback", "a logging factory", "a logging object", "an environment", "a sweeper's settings"]
)
def test_without_the_check_the_plants_would_work(plant, world, capfd, monkeypatch):
    """Or the tests above would show nothing."""
    monkeypatch.setattr(hydra._internal.hydra, "ConfigLoaderImpl", ConfigLoaderImpl)
    planted(world, FILES[plant])
    with suppress(Exception):
        main(["train", f"--config-dir={world}", "experiment=evil", f"paths.logs={world}/logs", *HARMLESS])
    assert (world / "to").exists()


COMMANDS = {
    "a sweep of one": ("train", "-m", "experiment=evil"),
    "a job of a sweep": ("train", "-m", "experiment=quickstart,evil"),
    "bench step": ("bench", "step", "{callback}"),
    "a callback": ("train", "{callback}"),
    "all of hydra": ("train", "hydra={callbacks:{x:{_target_:shutil.copyfile,src:{from},dst:{to}}}}"),
    "all of hydra, resolved": (
        "train",
        "hydra=${variant}",
        "variant={callbacks:{x:{_target_:shutil.copyfile,src:{from},dst:{to}}}}",
    ),
    "a launcher": ("train", "-m", "hydra.launcher._target_=planted_package.X"),
    "an environment": ("train", "+hydra.job.env_set.LITESPARK_ALLOWED_TARGETS=shutil."),
    "a variable that is copied": ("train", "hydra.job.env_copy=[HOME]"),
    "a sweep over a logging class": ("train", "-m", "+hydra.job_logging.handlers.x={class:logging.FileHandler},1"),
    "a package among the configs": ("train", "hydra.searchpath=[pkg://planted_package]"),
    "a package for the configs": ("train", "--config-path=pkg://planted_package"),
    "a primary config of one's own": ("train", "--config-dir={w}", "--config-name=mine"),
    "a group in another place": ("train", "--config-dir={w}", "+experiment@hydra.callbacks=node"),
    "showing the config": ("train", "--cfg=job", "{callback}"),
    "a pickle": ("train", "--experimental-rerun", "{w}/job.pickle"),
}


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("way", COMMANDS)
def test_no_command_line_makes_hydra_do_anything(way, world, capfd, monkeypatch):
    planted(world, FILES["a logging factory"])
    (world / "experiment" / "node.yaml").write_text(
        f"x: {{_target_: shutil.copyfile, src: {world}/from, dst: {world}/to}}"
    )
    (world / "mine.yaml").write_text("defaults: [train, _self_]\nhydra: {searchpath: ['pkg://planted_package']}\n")
    (world / "job.pickle").write_bytes(pickle.dumps(Touch(world / "to")))
    monkeypatch.chdir(world)
    callback = "+hydra.callbacks.x={_target_:shutil.copyfile,src:{from},dst:{to}}"
    words = list(COMMANDS[way])
    for name, value in {"callback": callback, "from": world / "from", "to": world / "to", "w": world}.items():
        words = [word.replace(f"{{{name}}}", str(value)) for word in words]
    if "evil" in words[-1]:
        words.insert(1, f"--config-dir={world}")
    try:
        code = main([*words, "seed=-1", f"paths.logs={world}/logs"])
    except SystemExit as end:
        code = end.code
    assert code, capfd.readouterr().out
    assert "Traceback" not in capfd.readouterr().err
    assert not (world / "to").exists()
    assert not (world / "logs" / "runs").exists()


@pytest.mark.parametrize(
    "override",
    [
        "hydra.run.dir=/somewhere",
        "hydra.verbose=true",
        "hydra.job.name=mine",
        "hydra.job_logging.root.level=DEBUG",
        "hydra/job_logging=disabled",
        "hydra.job_logging.formatters.simple.format='%(levelname)s %(message)s'",
    ],
)
def test_what_calls_nothing_may_be_set(override):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        check_hydra(compose("train", overrides=[override], return_hydra_config=True))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.launcher=null", "hydra.launcher: got None, expected a mapping; take it out"),
        ("hydra.sweeper=null", "hydra.sweeper: got None, expected a mapping; take it out"),
        ("hydra.verbose=5", "hydra.verbose: got 5, expected true, false or names of loggers; take it out"),
    ],
)
def test_what_hydra_would_end_with_a_traceback_is_one_message(override, message, tmp_path, capfd):
    assert main(["train", "-m", override, f"paths.logs={tmp_path}", *HARMLESS]) == 1
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
