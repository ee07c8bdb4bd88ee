"""What Lightning lacks for devices that PyTorch has; a test that fails here names the code that can go."""

from contextlib import nullcontext

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import ddp

XPU = torch.device("xpu", 0)


def test_lightning_has_no_accelerator_for_other_devices():
    beyond = AcceleratorRegistry.available_accelerators() - {"cpu", "cuda", "mps", "tpu"}
    assert beyond == set(), "Lightning has more accelerators: `lightning_accelerator` can take them"


def test_lightnings_ddp_opens_a_stream_of_cuda_on_every_accelerator(monkeypatch):
    opened = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda: opened.append("stream"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(ddp, "DistributedDataParallel", lambda **_: None)
    strategy = ddp.DDPStrategy(parallel_devices=[XPU])
    assert strategy.root_device == XPU
    strategy._setup_model(torch.nn.Linear(1, 1))
    assert opened == ["stream"], "Lightning is mended: `why_no_ddp` can go"
