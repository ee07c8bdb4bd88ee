"""A run under the real Trainer that keeps the batches it is given."""

from __future__ import annotations

import lightning.pytorch as lightning
import torch


class Recorder(lightning.LightningModule):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(batch.tokens)
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, steps, accumulate=1, **options):
    recorder = Recorder()
    checkpoint = options.pop("checkpoint", None)
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        accumulate_grad_batches=accumulate,
        **options,
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint)
    return trainer, torch.cat(recorder.seen)
