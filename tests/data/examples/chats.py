"""A tiny tokenizer with tokens for chats, and settings of examples that are prepared with it."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.encode import ExampleEncoder
from litespark.data.tokenizer import Tokenizer as OurTokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_tokenizer(folder: Path, *, template: str | None = None, eos: str = "<|im_end|>") -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["assistant\nuser\nsystem\nthe answer is", "what is the question"] * 3, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": eos} | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def config(source: Path | str, root: Path, **changes: object) -> ExamplesConfig:
    settings = {"vocab_size": 300, "seq_len": 64, "micro_batch_size": 2, "validation_fraction": 0.3} | changes
    return ExamplesConfig(source=str(source), root=str(root), **settings)


def encoder(tokenizer: Path, **changes: object) -> ExampleEncoder:
    settings = config("unread", tokenizer, tokenizer=str(tokenizer), **changes)
    return ExampleEncoder(settings, OurTokenizer.load(tokenizer))


def write_lines(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str, **more: object) -> dict:
    return {"role": "assistant", "content": text, **more}
