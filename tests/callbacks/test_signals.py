"""A signal ends the run after its step, saved; a second one ends it at once."""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest.mock import MagicMock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch.utils._python_dispatch import TorchDispatchMode

from litespark.callbacks import signals
from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.callbacks.signals import ONE_WISH_SECONDS, SIGNALS, Interrupted, StopOnSignal
from litespark.cli import main
from litespark.tasks.pretrain import Pretrain
from litespark.training.checkpoint.folder import find, finished
from tests.training.small_runs import batches, small_run, training_module

ROOT = Path(__file__).parents[2]


class Signalling(Pretrain):
    """Does something (sends a signal, say) in the middle of one micro-batch."""

    def __init__(self, at, act):
        self.at, self.act, self.seen = at, act, 0

    def loss(self, model, batch):
        self.seen += 1
        if self.seen == self.at:
            self.act()
        return super().loss(model, batch)


def stoppable_run(folder, task, *, steps=6, accumulate=2):
    folder.mkdir(exist_ok=True)
    phases = Phases()
    checkpointer = Checkpointer(folder / "checkpoints", every_steps=None, keep=1, about={}, phases=phases)
    module = training_module(steps=steps, sequences=2 * accumulate, task=task)
    callbacks = [checkpointer, StopOnSignal(checkpointer)]
    return small_run(folder, module, accumulate=accumulate, phases=phases, callbacks=callbacks)


@pytest.fixture
def handlers():
    """The handlers before the test; the test must leave the same."""
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests were started by nohup
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.signal(signal.SIGHUP, hangup)
    assert after == before


@pytest.mark.parametrize(
    "number, micro_batch, step",
    [*((number, 5, 3) for number in SIGNALS), (signal.SIGTERM, 6, 3), (signal.SIGTERM, 12, 6)],
)
def test_a_signal_lets_the_step_finish_and_saves_and_the_last_step_is_the_end_of_the_run(
    tmp_path, handlers, number, micro_batch, step
):
    run = stoppable_run(tmp_path, Signalling(micro_batch, lambda: signal.raise_signal(number)))
    stops = pytest.raises(Interrupted, match=f"stopped after step {step} and saved") if step < 6 else nullcontext()
    with stops:
        run.trainer.fit(run.module, batches(2))
    assert run.module.steps_taken == find(tmp_path).step == step
    assert run.phases.current == "idle"


def test_a_sigterm_before_the_first_step_is_not_lost(tmp_path, handlers):
    class Early(Callback):
        """Sends the signal while Lightning's handler is the one that gets it."""

        def on_train_start(self, trainer, pl_module):
            signal.raise_signal(signal.SIGTERM)

    run = stoppable_run(tmp_path, Pretrain())
    run.trainer.callbacks.insert(0, Early())
    with pytest.raises(Interrupted, match="after step 1 "):
        run.trainer.fit(run.module, batches(2))
    assert find(tmp_path).step == 1


@pytest.mark.parametrize("seconds, ends_at_once", [(ONE_WISH_SECONDS - 1, False), (ONE_WISH_SECONDS + 1, True)])
def test_a_second_signal_ends_at_once_but_not_the_echo_of_the_first(
    tmp_path, monkeypatch, handlers, seconds, ends_at_once
):
    class AtOnce(Exception):
        """What the default handler would do to the process."""

    now, dispositions = [100.0], []
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += seconds
        raise_signal = signal.raise_signal

        def die(number):
            dispositions.append(signal.getsignal(number))
            raise AtOnce

        monkeypatch.setattr(signals.signal, "raise_signal", die)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            monkeypatch.setattr(signals.signal, "raise_signal", raise_signal)

    run = stoppable_run(tmp_path, Signalling(3, twice))
    with pytest.raises(AtOnce if ends_at_once else Interrupted):
        run.trainer.fit(run.module, batches(2))
    assert dispositions == ([signal.SIG_DFL] if ends_at_once else [])
    assert len(finished(tmp_path / "checkpoints")) == (0 if ends_at_once else 1)


def test_sigterm_stops_train_py_saves_and_prints_a_command_that_continues(tmp_path):
    overrides = (
        "data=synthetic data.vocab_size=31 data.seq_len=8 data.micro_batch_size=2 trainer.global_batch_size=4 "
        "model.vocab_size=31 model.hidden_size=8 model.num_layers=1 model.num_heads=2 "
        "model.num_kv_heads=1 model.intermediate_size=16 "
        "budget.tokens=null budget.steps=1000000 trainer.log_every=1 trainer.validate_every=null "
        "metrics.probe_seconds=0 callbacks.report=false callbacks.sample_prompt=null "
        f"paths.logs={tmp_path}"
    ).split()
    command = [sys.executable, "train.py", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while not (written := list((tmp_path / "runs").glob("*/metrics.jsonl"))):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    folder = written[0].parent
    started.send_signal(signal.SIGTERM)
    output, errors = started.communicate(timeout=300)
    assert started.returncode == 75, output + errors
    step = find(folder).step
    assert f"Stopped after step {step}, saved. To continue:" in errors
    assert '"status": "interrupted"' in (folder / "run.json").read_text()

    continuing = errors[errors.index("To continue:") :].splitlines()[1].strip()
    assert continuing.endswith(f"resume={folder}")
    assert continuing.count("budget.steps=1000000") == 1
    words = shlex.split(continuing.replace("budget.steps=1000000", f"budget.steps={step + 3}"))
    assert main(["train", *words[words.index("train.py") + 1 :]]) == 0
    assert find(folder).step == step + 3
    assert '"status": "finished"' in (folder / "run.json").read_text()


MENDED = "Lightning is mended: `StopOnSignal.setup` need not take the place of its handler"


class Plain(pl.LightningModule):
    """Sends itself SIGTERM in its fifth micro-batch."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), 0

    def training_step(self, batch, batch_idx):
        self.seen += 1
        if self.seen == 5:
            signal.raise_signal(signal.SIGTERM)
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightnings_own_handler_ends_a_run_between_micro_batches_and_saves_nothing(tmp_path, handlers):
    trainer = pl.Trainer(
        accelerator="cpu", accumulate_grad_batches=4, default_root_dir=tmp_path, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = Plain()
    with suppress(SystemExit):
        trainer.fit(module, torch.utils.data.DataLoader(torch.ones(40, 1)))
    assert module.seen % 4 != 0, MENDED
    assert list(tmp_path.rglob("*.ckpt")) == [], MENDED


def test_lightnings_own_handler_broadcasts_whatever_it_interrupts(monkeypatch):
    sent = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: sent.append(tensor.item()))
    trainer = MagicMock(world_size=2, local_rank=0)
    trainer.strategy.root_device = torch.device("cpu")
    _SignalConnector(trainer)._sigterm_notifier_fn(signal.SIGTERM, None)
    assert sent == [1], MENDED


def test_lightning_reads_a_tensor_back_in_every_micro_batch_of_several_ranks():
    class Reads(TorchDispatchMode):
        """Counts what `item` asks of the device."""

        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    trainer = MagicMock(received_sigterm=False)
    trainer.strategy.root_device = torch.device("cpu")
    with Reads() as reads:
        _TrainingEpochLoop._broadcast_sigterm_tensor(MagicMock(trainer=trainer))
    assert reads.count == 1, MENDED
