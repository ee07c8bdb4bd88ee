"""Fine-tune a causal LM with the SFTTrainer of TRL, LoRA, and the ops of Litespark: `litespark.apply` is one line.

    python examples/trl_sft.py                 # a tiny random Qwen3, on a few questions
    python examples/trl_sft.py --model FOLDER  # a pretrained one, with its tokenizer
    python examples/trl_sft.py --plain         # the same without Litespark: the same losses

TRL computes the loss by a head of its own, so the head is the one part that Litespark does not run here.

Needs `pip install "litespark[huggingface]" trl peft`.
"""

import argparse
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from trl import SFTConfig, SFTTrainer

import litespark

EXAMPLES = [{"prompt": f"{a} times {b} is ", "completion": f"{a * b}."} for a in range(2, 12) for b in range(2, 12)]


def load(folder: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if folder is not None:
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    # a token is a byte
    alphabet = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytewise = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(alphabet),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        eos_token_id=0,
    )
    return Qwen3ForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>")


def train(folder: str | None, output: Path, steps: int, *, plain: bool = False) -> SFTTrainer:
    model, tokenizer = load(folder)
    arguments = SFTConfig(
        str(output),
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        logging_steps=1,
        bf16=torch.cuda.is_available(),
        max_length=64,
        packing=True,  # examples side by side in a sequence, which do not see each other
        eval_strategy="steps",
        eval_steps=steps,
        report_to="none",
    )
    if not plain:
        # on the device and in the dtype that it is trained with: by those the ops are chosen
        print(litespark.apply(model.to(arguments.device), autocast=torch.bfloat16 if arguments.bf16 else None))
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_list(EXAMPLES[8:]),
        eval_dataset=Dataset.from_list(EXAMPLES[:8]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, target_modules="all-linear"),
    )
    trainer.train()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model, with its tokenizer")
    parser.add_argument("--output", type=Path, default=Path("logs/trl_sft"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--plain", action="store_true", help="without Litespark")
    given = parser.parse_args()
    train(given.model, given.output, given.steps, plain=given.plain)
