"""Which setting or choice was meant by a word that is none: a slip of the keys, or another trainer's word for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# words of Lightning, torchtitan, transformers and lightning-hydra-template for a setting of ours, by their last part or
# by their last two; the value can be taken over
_SAME = {
    "budget.steps": "max_steps training.steps num_steps train_steps max_train_steps total_steps max_iters iterations",
    "budget.tokens": "max_tokens num_tokens total_tokens train_tokens token_budget",
    "trainer.global_batch_size": "train_batch_size total_batch_size batch_rows",
    "trainer.validate_every": "val_check_interval eval_steps eval_interval eval_every val_every validation.freq "
    "val_interval",
    "trainer.log_every": "log_every_n_steps logging_steps log_interval log_freq",
    "trainer.profile": "profiler profile",
    "trainer.accelerator": "device accelerator",
    "data.micro_batch_size": "per_device_train_batch_size local_batch_size micro_batch_size datamodule.batch_size "
    "data.batch_size micro_bsz batch_size_per_gpu",
    "data.seq_len": "seq_length max_seq_len max_seq_length max_length block_size context_length ctx_len "
    "sequence_len sequence_length",
    "data.workers": "num_workers dataloader_num_workers",
    "data.source": "dataset dataset_name dataset_path data_dir data_path data_files train_file",
    "data.tokenizer": "tokenizer_path tokenizer_name tokenizer_name_or_path tokenizer",
    "data.validation_sequences": "limit_val_batches eval_iters max_eval_samples",
    "data.training_sequences": "limit_train_batches max_train_samples",
    "optim.lr": "learning_rate base_lr max_lr peak_lr learningrate",
    "optim.grad_clip": "gradient_clip_val max_grad_norm max_norm clip_grad_norm grad_clip_norm clip_norm clip",
    "optim.eps": "adam_epsilon epsilon",
    "optim.weight_decay": "wd decay_weight",
    "schedule.warmup": "warmup_ratio warmup_fraction",
    "schedule.decay": "decay_ratio decay_fraction",
    "schedule.final": "min_lr_ratio min_lr_factor lr_min_ratio",
    "callbacks.checkpoint_every": "save_steps save_interval save_every checkpoint.interval every_n_train_steps",
    "callbacks.checkpoint_keep": "save_total_limit save_top_k keep_latest_k",
    "callbacks.progress": "enable_progress_bar",
    "paths.logs": "default_root_dir output_dir out_dir log_dir dump_folder save_dir logging_dir",
    "paths.data": "cache_dir",
    "name": "run_name experiment_name task_name job_name",
    "resume": "ckpt_path resume_from_checkpoint resume_from checkpoint_path load_checkpoint",
    "initial_weights": "model_name_or_path pretrained pretrained_model init_from initial_load_path",
    "model.hidden_size": "dim d_model n_embd embed_dim hidden_dim width",
    "model.num_layers": "num_hidden_layers n_layer n_layers depth layers",
    "model.num_heads": "num_attention_heads n_head n_heads heads",
    "model.num_kv_heads": "num_key_value_heads n_kv_heads kv_heads",
    "model.intermediate_size": "ffn_dim d_ff ffn_hidden_size",
    "model.vocab_size": "vocab vocabulary",
    "model.max_seq_len": "max_position_embeddings",
    "model.tie_embeddings": "tie_word_embeddings",
    "model.norm_eps": "rms_norm_eps",
    "model.init_std": "initializer_range",
    "metrics.probe_seconds": "probe",
    "seed": "random_seed manual_seed training.seed trainer.seed seed_everything",
    # groups, of which a choice is the value
    "precision": "trainer.precision mixed_precision dtype torch_dtype",
    "strategy": "trainer.strategy distributed_strategy",
    "model": "flavor model_name model_type architecture",
    "data": "datamodule data_module",
    "optim": "optimizer optimizer.name optim_name",
    "schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule",
    "logger": "report_to trainer.logger",
    "recompute": "activation_checkpoint.mode activation_checkpointing",
    "experiment": "exp",
    "data/selection": "selection filter filters",
}
# and those whose value cannot be taken over: what to do
_OTHERWISE = {
    "set budget.tokens=TOKENS or budget.steps=STEPS: the length of a run is in tokens or steps, not epochs": (
        "max_epochs num_train_epochs num_epochs epochs min_epochs n_epochs"
    ),
    "set trainer.global_batch_size (rows of a step, over all devices) or data.micro_batch_size (of one forward pass)": (
        "batch_size bs bsz batch"
    ),
    "start with torchrun --nproc-per-node=N train.py strategy=ddp for N devices": "devices num_gpus gpus n_gpus "
    "num_devices nproc_per_node nproc",
    "start with torchrun --nnodes=N --nproc-per-node=M train.py strategy=ddp for N computers": "num_nodes nnodes",
    "set trainer.global_batch_size and data.micro_batch_size, from which the micro-batches of a step follow": (
        "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps grad_accum gradient_accumulation "
        "accumulation_steps"
    ),
    "set schedule.warmup=0.05, a share of the budget": "warmup_steps warmup_iters num_warmup_steps lr_warmup_steps "
    "warmup_tokens",
    "set schedule.final=0.1, a share of optim.lr": "min_lr lr_min end_lr final_lr",
    "set optim.betas=[0.9,0.95]": "adam_beta1 adam_beta2 beta1 beta2 beta_1 beta_2",
    "choose precision=bf16": "bf16 fp16 amp use_amp bf16_enabled",
    "choose recompute=full": "gradient_checkpointing activation_checkpoint checkpoint_activations use_checkpoint",
    "choose strategy=fsdp": "fsdp deepspeed zero_stage data_parallel_shard_degree fully_sharded",
    "choose strategy=ddp": "ddp data_parallel_replicate_degree",
    "set ops.compile=block": "torch_compile compile compile_model",
    "choose debug=limit, a few steps through every part": "fast_dev_run dry_run smoke_test",
    "choose debug=overfit": "overfit_batches overfit",
    "stop the run with Ctrl-C or SIGTERM, it saves and can be resumed": "max_time time_limit",
    "set trainer.validate_every=STEPS": "check_val_every_n_epoch eval_strategy evaluation_strategy",
    "set callbacks.checkpoint_every=STEPS": "enable_checkpointing save_strategy checkpoint_interval",
    "choose logger=wandb": "wandb use_wandb wandb_project",
    "choose logger=mlflow": "mlflow use_mlflow",
    "write an experiment, configs/experiment/NAME.yaml, and choose it, experiment=NAME": "config_file cfg_file config "
    "args_file",
}  # fmt: skip
_MEANT = {word: key for key, words in _SAME.items() for word in words.split()}
_ADVICE = {word: advice for advice, words in _OTHERWISE.items() for word in words.split()}

# other people's words for a choice, by group
_CHOICES = {
    "precision": {
        "bf16": "bf16-mixed bf16-true bfloat16 bf16_mixed 16 16-mixed 16-true fp16 half float16 mixed",
        "fp32": "32 32-true float32 float full 64 fp64 tf32",
        "fp8": "float8 transformer-engine fp8-mixed 8",
    },
    "strategy": {"single": "auto none single_device", "fsdp": "fsdp2 zero3 deepspeed deepspeed_stage_3 hsdp"},
    "optim": {"adamw": "adam adamw_torch adamw_torch_fused adam_w adamw_fused"},
    "schedule": {"wsd": "warmup_stable_decay trapezoidal linear", "cosine": "cosine_with_warmup cosine_annealing"},
    "debug": {"limit": "default fdr fast_dev_run", "overfit": "overfit_batches"},
    "recompute": {"full": "true selective activation block", "none": "false"},
}  # fmt: skip
# a choice that is made by another setting
_CHOICE_ADVICE = {
    "trainer": {
        "gpu": "set trainer.accelerator=gpu",
        "cuda": "set trainer.accelerator=gpu",
        "cpu": "set trainer.accelerator=cpu",
        "ddp": "choose strategy=ddp",
        "fsdp": "choose strategy=fsdp",
    },
    "logger": dict.fromkeys(("tensorboard", "csv", "json"), "leave it out, TensorBoard and JSON are always there"),
}  # fmt: skip
_AT_MOST = 3


def advice_for(key: str, value: str | None, known: Iterable[str]) -> str:
    """What to write instead of `key`, which is no setting; empty where nothing is near.

    Args:
        key: dotted, without a prefix.
        value: as it was written; None: none was.
        known: the settings and groups that there are, dotted.
    """
    keys = [each for each in known if each != key]
    lower = key.lower().replace("-", "_").strip(".")
    # the longer form is the more telling one
    for word in (".".join(lower.split(".")[-2:]), lower.rsplit(".", 1)[-1]):
        if word in _ADVICE:
            return _ADVICE[word]
        if word in _MEANT and _MEANT[word] != key:
            return f"set {_written(_MEANT[word], value)}"
    near = [_written(each, value) for each in nearest(lower, keys)]
    return f"set {' or '.join(near)}" if near else ""


def nearest(key: str, known: Iterable[str]) -> list[str]:
    """The keys that `key` may be a slip of, the likeliest first: the same last part, or nearly the same letters."""
    keys = sorted(set(known))
    leaf = key.rsplit(".", 1)[-1]
    if same := [each for each in keys if each.rsplit(".", 1)[-1] == leaf and each != key]:
        return same[:_AT_MOST]
    parent = key.rpartition(".")[0]
    beside = {each.rpartition(".")[2]: each for each in keys if each.rpartition(".")[0] == parent}
    if found := get_close_matches(leaf, beside, n=1, cutoff=0.7):
        return [beside[found[0]]]
    if found := get_close_matches(key, keys, n=1, cutoff=0.8):
        return found
    leaves = {each.rpartition(".")[2]: each for each in keys}
    # in another group, of which the key tells nothing: a letter of four may differ in any word
    return [leaves[each] for each in get_close_matches(leaf, leaves, n=1, cutoff=0.8)]


def choice_for(group: str, word: str, choices: Sequence[str]) -> str:
    """What to write instead of `group=word`, which is no choice of it; empty where nothing is near."""
    lower = word.lower()
    if advice := _CHOICE_ADVICE.get(group, {}).get(lower):
        return advice
    for choice, words in _CHOICES.get(group, {}).items():
        if lower in words.split() and choice in choices:
            return f"choose {group}={choice}"
    begin = [each for each in choices if each.startswith(lower)] if lower else []
    near = begin or get_close_matches(lower, choices, n=1, cutoff=0.5)
    return "choose " + " or ".join(f"{group}={each}" for each in near[:_AT_MOST]) if near else ""


def _written(key: str, value: str | None) -> str:
    """An override that can be pasted."""
    if value is None or value == "":
        return f"{key}=…"
    for choice, words in _CHOICES.get(key, {}).items():
        if value.lower() in words.split():
            value = choice
    return f"{key}={value if re.fullmatch(r'[A-Za-z0-9/._,+:-]+', value) else '…'}"
