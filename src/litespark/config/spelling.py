"""Which setting or choice was meant by a word that is none: a slip of the keys, or another trainer's word for it."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# words of Lightning, torchtitan and transformers for a setting or group of ours, by their last part or by their last
# two; the value can be taken over
_SAME = {
    "budget.steps": "max_steps training.steps num_steps train_steps max_iters",
    "budget.tokens": "max_tokens num_tokens total_tokens",
    "trainer.global_batch_size": "train_batch_size total_batch_size",
    "trainer.validate_every": "val_check_interval eval_steps eval_interval validation.freq",
    "trainer.log_every": "log_every_n_steps logging_steps log_interval log_freq",
    "data.micro_batch_size": "per_device_train_batch_size local_batch_size data.batch_size datamodule.batch_size",
    "data.seq_len": "seq_length max_seq_len max_seq_length max_length block_size context_length",
    "data.workers": "num_workers dataloader_num_workers",
    "data.source": "dataset dataset_name dataset_path data_dir data_path",
    "data.tokenizer": "tokenizer_path tokenizer_name_or_path tokenizer",
    "optim.lr": "learning_rate max_lr peak_lr",
    "optim.grad_clip": "gradient_clip_val max_grad_norm max_norm",
    "callbacks.checkpoint_every": "save_steps save_interval checkpoint.interval every_n_train_steps",
    "paths.logs": "default_root_dir output_dir out_dir log_dir dump_folder",
    "name": "run_name experiment_name task_name",
    "resume": "ckpt_path resume_from_checkpoint load_checkpoint",
    "model.hidden_size": "dim d_model n_embd hidden_dim",
    "model.num_layers": "num_hidden_layers n_layer n_layers",
    "model.num_heads": "num_attention_heads n_head n_heads",
    "seed": "random_seed manual_seed seed_everything",
    "precision": "trainer.precision mixed_precision dtype torch_dtype",
    "strategy": "trainer.strategy",
    "model": "flavor model_name architecture",
    "data": "datamodule",
    "optim": "optimizer",
    "schedule": "lr_scheduler lr_scheduler_type scheduler",
    "data/selection": "selection",
}
# and those whose value cannot be taken over: what to do
_OTHERWISE = {
    "set budget.tokens=TOKENS or budget.steps=STEPS: the length of a run is in tokens or steps, not epochs": (
        "max_epochs num_train_epochs num_epochs epochs"
    ),
    "set trainer.global_batch_size (sequences of a step, over all devices) or data.micro_batch_size (of one forward "
    "pass)": "batch_size",
    "start with torchrun --nproc-per-node=N train.py strategy=ddp for N devices": "devices num_gpus nproc_per_node",
    "set trainer.global_batch_size and data.micro_batch_size, from which the micro-batches of a step follow": (
        "accumulate_grad_batches gradient_accumulation_steps"
    ),
    "set schedule.warmup=0.05, a share of the budget": "warmup_steps num_warmup_steps",
    "choose precision=bf16": "bf16 fp16",
    "choose recompute=full": "gradient_checkpointing activation_checkpoint activation_checkpointing",
    "choose model=huggingface and set model.path=FOLDER, a Hugging Face folder or a run": (
        "initial_weights model_name_or_path pretrained init_from initial_load_path"
    ),
    "choose strategy=fsdp": "fsdp deepspeed data_parallel_shard_degree",
    "choose debug=limit, a few steps through every part": "fast_dev_run",
    "write an experiment, configs/experiment/NAME.yaml, and choose it, experiment=NAME": "config_file config",
}
_MEANT = {word: key for key, words in _SAME.items() for word in words.split()}
_ADVICE = {word: advice for advice, words in _OTHERWISE.items() for word in words.split()}
# other people's words for a choice, by group
_CHOICES = {
    "precision": {"bf16": "bf16-mixed bf16-true bfloat16 16 16-mixed fp16 half", "fp32": "32 32-true float32"},
    "strategy": {"single": "auto none", "fsdp": "fsdp2 zero3 deepspeed"},
    "optim": {"adamw": "adam adamw_torch adamw_torch_fused"},
}
_AT_MOST = 5


def advice_for(key: str, value: str | None, known: Iterable[str]) -> str:
    """What to write instead of `key`, which is no setting; empty where nothing is near."""
    lower = key.lower().replace("-", "_").strip(".")
    # the longer form is the more telling one
    for word in (".".join(lower.split(".")[-2:]), lower.rpartition(".")[2]):
        if word in _ADVICE:
            return _ADVICE[word]
        if _MEANT.get(word, key) != key:
            return f"set {_written(_MEANT[word], value)}"
    near = [_written(near_key, value) for near_key in _nearest(lower, {other for other in known if other != key})]
    return f"set {' or '.join(near)}" if near else ""


def _nearest(key: str, known: set[str]) -> list[str]:
    """The keys that `key` may be a slip of, the likeliest first: the same last part, or nearly the same letters."""
    keys = sorted(known)
    parent, _, leaf = key.rpartition(".")
    if same := [key for key in keys if key.rpartition(".")[2] == leaf]:
        return same[:_AT_MOST]
    beside = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == parent}
    leaves = {key.rpartition(".")[2]: key for key in keys}
    # in another group: one letter in four may differ
    for word, there, cutoff in ((leaf, beside, 0.7), (key, {key: key for key in keys}, 0.8), (leaf, leaves, 0.8)):
        if matches := get_close_matches(word, there, n=1, cutoff=cutoff):
            return [there[matches[0]]]
    return []


def choice_for(group: str, word: str, choices: Sequence[str]) -> str:
    """What to write instead of `group=word`, which is no choice of it; empty where nothing is near."""
    lower = word.lower()
    if (choice := _as_ours(group, lower)) in choices:
        return f"choose {group}={choice}"
    begin = [choice for choice in choices if choice.startswith(lower)] if lower else []
    near = begin or get_close_matches(lower, choices, n=1, cutoff=0.5)
    return "choose " + " or ".join(f"{group}={choice}" for choice in near[:_AT_MOST]) if near else ""


def _as_ours(group: str, word: str) -> str:
    return next((ours for ours, theirs in _CHOICES.get(group, {}).items() if word.lower() in theirs.split()), word)


def _written(key: str, value: str | None) -> str:
    value = _as_ours(key, value or "…")
    return f"{key}={value if re.fullmatch(r'[A-Za-z0-9/._,+:-]+', value) else '…'}"
