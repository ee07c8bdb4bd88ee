"""TRL's steps of a task, as its users take them, on the examples that our data module serves."""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from litespark.benchmarks.tasks.examples import StepExamples
from litespark.benchmarks.tasks.watch import Watch
from litespark.data.examples.example import Example, Ids
from litespark.data.loss_mask import IGNORE_INDEX
from litespark.device import device_of
from litespark.metrics.environment import version_of
from litespark.run.config import Parts
from litespark.run.preflight import Machine
from litespark.tasks.grpo.rewards import REWARDS

_NEVER = "<|never|>"


def take_steps(
    parts: Parts, machine: Machine, folder: str, steps: Sequence[StepExamples], watch: Watch, *, padded: bool = False
) -> tuple[Any, str]:
    """Take a step of each of `steps` from the model in `folder`; returns the optimizer, and what was chosen."""
    import transformers

    torch.manual_seed(parts.seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with tempfile.TemporaryDirectory() as output:
        common = {**_settings(parts, machine, len(steps)), "output_dir": output}
        make = {"sft": _sft, "dpo": _dpo, "grpo": _grpo}[parts.task.name]
        trainer = make(parts, model, tokenizer, common, steps, watch, padded)
        trainer.add_callback(_begin(transformers.TrainerCallback, watch))
        watch.watch(model)
        trainer.train()
    words = [f"TRL {version_of('trl')}", f"transformers {transformers.__version__}", "sdpa"]
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return optimizer, ", ".join([*words, type(optimizer).__name__ + (" fused" if optimizer.defaults["fused"] else "")])


def _settings(parts: Parts, machine: Machine, steps: int) -> dict[str, Any]:
    """Of every trainer: our optimizer's settings, and nothing that is not training."""
    optim: Any = parts.optim
    return {
        "max_steps": steps,
        "learning_rate": optim.lr,
        "lr_scheduler_type": "constant",
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "adam_epsilon": optim.eps,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.grad_clip or 0.0,
        "optim": "adamw_torch_fused" if optim.fused else "adamw_torch",
        "bf16": machine.precision == "bf16",
        "use_cpu": not device_of(machine.device).is_accelerator,
        "gradient_checkpointing": parts.recompute == "full",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "seed": parts.seed,
    }


def _begin(callback: Any, watch: Watch) -> Any:
    class Begin(callback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.end_step()

    return Begin()


def _watched(trainer: Any, watch: Watch) -> Any:
    """The class of a trainer that tells `watch` its losses and takes batches as they are given."""

    class Watched(trainer):
        given: list[list[dict[str, Any]]]

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            watch.losses.append(loss.detach())
            return loss

    return Watched


def _with_batches(trainer: Any) -> Any:
    class Given(trainer):
        def get_train_dataloader(self) -> Any:
            return DataLoader(self.given, batch_size=None, collate_fn=self.data_collator)

    return Given


def _sft(
    parts: Parts,
    model: Any,
    tokenizer: Any,
    common: dict[str, Any],
    steps: Sequence[StepExamples],
    watch: Watch,
    padded: bool,
) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if padded:
        given = [[_labelled([example]) for _, example in step.all] for step in steps]
    else:
        given = [[_labelled([example for _, example in row]) for row in step.rows] for step in steps]
    # what bfd packing comes to, of sequences that our packing, which is best fit decreasing too, has already laid out
    packing = {} if padded else {"packing": True, "packing_strategy": "bfd", "max_length": parts.data.seq_len}
    settings = SFTConfig(
        **common, **packing, per_device_train_batch_size=len(given[0]), dataset_kwargs={"skip_prepare_dataset": True}
    )
    rows = Dataset.from_list(list(itertools.chain.from_iterable(given)))
    kind = _with_batches(_watched(SFTTrainer, watch))
    trainer = kind(model, args=settings, train_dataset=rows, processing_class=tokenizer)
    trainer.given = given
    return trainer


def _labelled(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Conversations one behind the other in TRL's columns."""
    ids = [of for example in examples for of in example.sequences]
    weights = [of for example in examples for of in example.weights]
    labels = [np.where(of > 0, them, IGNORE_INDEX) for them, of in zip(ids, weights, strict=True)]
    return {
        "input_ids": np.concatenate(ids).tolist(),
        "labels": np.concatenate(labels).tolist(),
        **({"seq_lengths": [them.size for them in ids]}),
    }


def _dpo(
    parts: Parts,
    model: Any,
    tokenizer: Any,
    common: dict[str, Any],
    steps: Sequence[StepExamples],
    watch: Watch,
    padded: bool,
) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    task: Any = parts.task
    settings = DPOConfig(
        **common,
        per_device_train_batch_size=len(steps[0].all),
        precompute_ref_log_probs=True,
        max_length=None,
        loss_type=[task.loss_type],
        beta=task.beta,
    )
    pairs = [_pair(example) for step in steps for _, example in step.all]

    class Tokenized(_with_batches(_watched(DPOTrainer, watch))):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:  # ids are there
            return dataset

    trainer = Tokenized(model, args=settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    rows = iter(list(trainer.train_dataset))  # with what the reference makes of them
    trainer.given = [list(itertools.islice(rows, len(step.all))) for step in steps]
    return trainer


def _pair(example: Example) -> dict[str, list[int]]:
    (prompt, chosen), (again, rejected) = (
        _divided(ids, weights) for ids, weights in zip(example.sequences, example.weights, strict=True)
    )
    assert prompt == again
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _divided(ids: Ids, weights: Any) -> tuple[list[int], list[int]]:
    """The ids of a prompt, and those of what answers it."""
    begin = int(np.argmax(weights > 0))
    return ids[:begin].tolist(), ids[begin:].tolist()


def _grpo(
    parts: Parts,
    model: Any,
    tokenizer: Any,
    common: dict[str, Any],
    steps: Sequence[StepExamples],
    watch: Watch,
    padded: bool,
) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    task: Any = parts.task
    # an end that the model has no row for, so that every completion is as long as it may be
    tokenizer.add_special_tokens({"eos_token": _NEVER})
    model.generation_config.eos_token_id = None
    prompts = [example for step in steps for _, example in step.all]
    texts = [tokenizer.decode(example.sequences[0]) for example in prompts]
    ids_of = {text: example.sequences[0].tolist() for text, example in zip(texts, prompts, strict=True)}
    size = task.num_generations
    settings = GRPOConfig(
        **common,
        per_device_train_batch_size=size * len(steps[0].all),
        num_generations=size,
        max_completion_length=task.max_new_tokens,
        loss_type=task.loss_type,
        scale_rewards=task.scale_rewards,
        beta=task.beta,
        epsilon=task.epsilon,
        shuffle_dataset=False,
        steps_per_generation=1,
    )

    class Timed(_watched(GRPOTrainer, watch)):  # type: ignore[misc]
        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [ids_of[prompt] for prompt in prompts], None, {}

        def _generate(self, *arguments: Any) -> Any:
            with watch.rollout():
                return super()._generate(*arguments)

    records = [
        {"prompt": text, **{key: example.about[key] for key in example.about}}
        for text, example in zip(texts, prompts, strict=True)
    ]
    rewards = [_reward(name) for name in task.rewards]
    return Timed(
        model, reward_funcs=rewards, args=settings, train_dataset=Dataset.from_list(records), processing_class=tokenizer
    )


def _reward(name: str) -> Callable[..., list[float]]:
    """One of our rewards by name, as TRL calls them."""

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return list(REWARDS[name](prompts, completions, [{} for _ in prompts]))

    reward.__name__ = name
    return reward
