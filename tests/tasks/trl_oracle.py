"""What TRL computes in the cases of `oracle_cases`; `python -m tests.tasks.trl_oracle` writes the golden values."""

import json
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from litespark.models.llama.huggingface import export_huggingface
from tests.tasks import oracle_cases as cases
from tests.tasks.oracle_cases import GOLDEN, VOCABULARY, pairs, policy, rated, reference, scorer


def golden() -> dict[str, dict[str, object]]:
    """By case the loss of TRL and what is kept of the gradients."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for which, model in (("policy", policy()), ("reference", reference())):
            export_huggingface(model, folder / which, eos_id=1)
        export_huggingface(scorer(), folder / "scorer", eos_id=1)
        return dict(_cases(folder))


def _cases(folder):
    common = {
        "output_dir": str(folder / "out"), "use_cpu": True, "report_to": "none", "bf16": False, "max_length": None,
        "per_device_train_batch_size": 4, "gradient_checkpointing": False,
    }  # fmt: skip
    words = _tokenizer()
    paired = [{"prompt": _text(p), "chosen": _text(c), "rejected": _text(r)} for p, c, r in pairs()]
    single = [{"prompt": _text(p), "completion": _text(c), "label": good} for p, c, good in rated()]

    def load(which="policy"):
        return LlamaForCausalLM.from_pretrained(folder / which, dtype=torch.float32)

    def of(kind, settings, records, **more):
        model, data = load(), Dataset.from_list(records)
        return kind(model, args=settings, train_dataset=data, processing_class=words, **more)

    def collated(trainer):
        return trainer.data_collator([trainer.train_dataset[number] for number in range(4)])

    completions = [{name: record[name] for name in ("prompt", "completion")} for record in single]
    trainer = of(SFTTrainer, SFTConfig(**common), completions)
    yield "sft", _kept(trainer.model, trainer.compute_loss(trainer.model, collated(trainer)))
    for loss, settings in cases.DPO.items():
        trainer = of(DPOTrainer, DPOConfig(loss_type=[loss], **settings, **common), paired, ref_model=load("reference"))
        yield loss, _kept(trainer.model, trainer._compute_loss(trainer.model, collated(trainer), False))
    for loss, settings in cases.KTO.items():
        config = KTOConfig(loss_type=loss, train_sampling_strategy="sequential", **settings, **common)
        trainer = of(KTOTrainer, config, single, ref_model=load("reference"))
        yield loss, _kept(trainer.model, trainer._compute_loss(trainer.model, collated(trainer), False))
    scored = [{**record, "margin": margin} for record, margin in zip(paired, cases.MARGINS, strict=True)]
    for name, records, settings in (("reward", paired, {}), ("reward_margin", scored, cases.CENTRED)):
        model = LlamaForSequenceClassification.from_pretrained(folder / "scorer", dtype=torch.float32)
        trainer = RewardTrainer(
            model, args=RewardConfig(**settings, **common), train_dataset=Dataset.from_list(records),
            processing_class=words,
        )  # fmt: skip
        yield name, _kept(trainer.model, trainer.compute_loss(trainer.model, collated(trainer)))
    beta, gamma = cases.SIMPO["beta"], cases.SIMPO["gamma"]
    config = CPOConfig(loss_type="simpo", cpo_alpha=0, beta=beta, simpo_gamma=gamma, **common)
    trainer = of(CPOTrainer, config, paired)
    yield "simpo", _kept(trainer.model, trainer.get_batch_loss_metrics(trainer.model, collated(trainer))[0])
    trainer = of(ORPOTrainer, ORPOConfig(beta=0.25, **common), paired)
    chosen, rejected, *_ = trainer.concatenated_forward(trainer.model, collated(trainer))
    # without the nats, which TRL takes of prompts too
    yield "orpo_odds", _kept(trainer.model, -trainer.odds_ratio_loss(chosen, rejected)[0].mean())


def _kept(model, loss):
    model.zero_grad()
    loss.backward()
    named = dict(model.named_parameters())
    gradients = {
        "embedding": named["model.embed_tokens.weight"].grad.sum(1),
        "first_norm": named["model.layers.0.input_layernorm.weight"].grad,
        "norm": named["model.norm.weight"].grad,
    }
    return {"loss": loss.item(), **{name: values.tolist() for name, values in gradients.items()}}


def _tokenizer():
    words = Tokenizer(models.WordLevel({f"w{number:02}": number for number in range(VOCABULARY)}, unk_token="w00"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w01", pad_token="w00", unk_token="w00")


def _text(ids):
    return "".join(f" w{number:02}" for number in ids)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=0) + "\n")
