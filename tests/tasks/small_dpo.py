"""Small runs of DPO that tests share."""

import lightning.pytorch as pl
from torch.distributed.tensor import DTensor

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.callbacks.reference import ReferenceModel
from litespark.run.metric_rows import read_metrics
from litespark.tasks.preferences.task import Preference
from litespark.training.checkpoint import folder as checkpoint_folder
from tests.tasks.toy_examples import VOCABULARY, Examples, random_examples
from tests.training.small_runs import small_run, training_module

PAIRS = random_examples(13)
HELD_OUT = random_examples(5, seed=9)


class StopAfter(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop |= pl_module.steps_taken == self.step


def dpo_run(folder, *, micro_batch_size=4, cache=None, resume=False, stop=None, callbacks=()):
    """Four steps of DPO over packed pairs, or the first `stop` of them; the run and its rows."""
    folder.mkdir(exist_ok=True)
    data = Examples(PAIRS, HELD_OUT, micro_batch_size=micro_batch_size)
    module = training_module(steps=4, sequences=4, task=Preference(), vocab_size=VOCABULARY, max_seq_len=48)
    module.metrics = module.task.metrics(data.manifest)
    phases = Phases()
    reference = ReferenceModel(folder, cache or folder / "cache", phases=phases, about={})
    saver = Checkpointer(folder / "checkpoints", every_steps=2, keep=9, about={}, phases=phases)
    run = small_run(
        folder, module, accumulate=4 // micro_batch_size, validate_every=2, phases=phases,
        callbacks=[reference, *callbacks, saver, StopAfter(stop)],
    )  # fmt: skip
    state = checkpoint_folder.find(folder / "checkpoints").folder if resume else None
    run.trainer.fit(module, data, ckpt_path=state, weights_only=True)
    run.metrics.save()
    return run, read_metrics(folder)


def weights(run):
    """Of the model, whole where they are sharded."""
    named = run.module.model.named_parameters()
    return {name: (it.full_tensor() if isinstance(it, DTensor) else it).detach().clone() for name, it in named}
