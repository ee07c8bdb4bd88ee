"""Train a causal LM with the Trainer of transformers and the ops of Litespark: `litespark.apply` is one line.

    python examples/transformers_trainer.py                 # a tiny random Llama, on the sources of Python itself
    python examples/transformers_trainer.py --model FOLDER  # a pretrained one, with its tokenizer
    python examples/transformers_trainer.py --plain         # the same without Litespark: the same losses

Needs `pip install "litespark[huggingface]" accelerate`.
"""

import argparse
import inspect
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

import litespark

LENGTH = 128  # tokens of a sequence


def load(folder: str | None) -> tuple[PreTrainedModel, list[torch.Tensor]]:
    """A model, and sequences of tokens that it is trained with."""
    text = inspect.getsource(argparse)
    if folder is None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
        )
        model, tokens = LlamaForCausalLM(config), list(text.encode())  # a token is a byte
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokens = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    return model, list(torch.tensor(tokens).split(LENGTH))[:-1]


def train(folder: str | None, output: Path, steps: int, *, plain: bool = False) -> Trainer:
    model, sequences = load(folder)
    arguments = TrainingArguments(
        str(output),
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=steps,
        report_to="none",
    )
    if not plain:
        # on the device that it is trained on: by that the ops are chosen
        print(litespark.apply(model.to(arguments.device)))
    rows = [{"input_ids": sequence, "labels": sequence} for sequence in sequences]
    trainer = Trainer(model, arguments, train_dataset=rows[4:], eval_dataset=rows[:4])
    trainer.train()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model, with its tokenizer")
    parser.add_argument("--output", type=Path, default=Path("logs/transformers_trainer"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--plain", action="store_true", help="without Litespark")
    given = parser.parse_args()
    train(given.model, given.output, given.steps, plain=given.plain)
