"""Losses and gradients of TRL's GRPOTrainer and RLOOTrainer for log-probabilities that are given.

`python -m tests.tasks.grpo.oracle` writes the golden values anew.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch

GOLDEN = Path(__file__).with_name("golden.json")
MAX_NEW_TOKENS = 7
_USUAL = {"epsilon": 0.2, "epsilon_high": 0.2, "beta": 0.0, "correction": False}
CASES = {
    "grpo": _USUAL,
    "grpo with a reference": _USUAL | {"beta": 0.3},
    "dr_grpo": _USUAL,
    "dr_grpo corrected": _USUAL | {"beta": 0.1, "correction": True},
    "dapo": _USUAL | {"epsilon_high": 0.28},
    "rloo": _USUAL | {"epsilon": 0.3, "epsilon_high": 0.3},
}


def inputs() -> dict[str, torch.Tensor]:
    """Six completions of up to seven tokens; of each log-probabilities (N, T), and mask and advantages."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = -drawn(6, 7).abs()
    lengths = torch.tensor([7, 3, 1, 5, 7, 2])
    return {
        "logs": old + 0.3 * drawn(6, 7),
        "old": old,
        "reference": old + 0.2 * drawn(6, 7),
        "correction": drawn(6, 7).div(4).exp().clamp(max=1.2),
        "advantages": drawn(6),
        "mask": (torch.arange(7) < lengths[:, None]).double(),
    }


def of_trl(name: str) -> tuple[float, list[list[float]]]:
    """The loss, and its gradient by the log-probabilities (N, T)."""
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    case, given, loss_type = CASES[name], inputs(), name.split()[0]
    logs, mask = given["logs"].requires_grad_(), given["mask"]
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logs, torch.zeros_like(logs), None),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        loss_type=loss_type,
        importance_sampling_level="token",
        epsilon_low=case["epsilon"],
        epsilon_high=case["epsilon_high"],
        beta=case["beta"],
        max_completion_length=MAX_NEW_TOKENS,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=case["correction"],
        vllm_importance_sampling_correction=True,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    ids = torch.zeros(6, 7, dtype=torch.int64)
    batch = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones(6, 1),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": given["advantages"],
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["reference"],
        "importance_sampling_ratio": given["correction"],
        "num_items_in_batch": mask.sum(),
        "old_logps": (given["old"] * mask).sum(1),
    }
    kind = RLOOTrainer if loss_type == "rloo" else GRPOTrainer
    loss = kind._compute_loss(trainer, None, batch)
    loss.backward()
    return loss.item(), logs.grad.tolist()


if __name__ == "__main__":
    values = {name: dict(zip(("loss", "gradient"), of_trl(name), strict=True)) for name in CASES}
    GOLDEN.write_text(json.dumps(values, indent=1) + "\n")
