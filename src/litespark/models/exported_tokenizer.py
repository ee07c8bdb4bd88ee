"""The tokenizer files of a model that is written as a Hugging Face folder."""

import json
from pathlib import Path
from typing import Any

from litespark.models.safetensors_folder import read_json
from litespark.models.spec import ModelSpec

# what may lie beside tokenizer.json
_TOKENIZER_FILES = (
    "tokenizer_config.json special_tokens_map.json added_tokens.json tokenizer.model vocab.json merges.txt "
    "chat_template.jinja"
).split()


def tokenizer_files(path: Path, config: ModelSpec, eos_id: int | None, bos_id: int | None) -> dict[str, bytes]:
    """Name -> content of the tokenizer files to place in an export."""
    main = path / "tokenizer.json" if path.is_dir() else path
    # a sentencepiece model needs no tokenizer.json; a run has compared its hash with that of the checkpoint
    alone = not main.exists() and (path / "tokenizer.model").is_file()
    content = {} if alone else read_json(main)
    vocab = content.get("model", {}).get("vocab", {})
    # a Unigram model lists (token, score) in the order of ids
    pairs = ((token, index) for index, (token, _) in enumerate(vocab)) if isinstance(vocab, list) else vocab.items()
    token_of = {index: token for token, index in pairs}
    token_of |= {token["id"]: token["content"] for token in content.get("added_tokens", [])}
    if token_of and max(token_of) >= config.vocab_size:
        raise ValueError(
            f"{main} has token ids up to {max(token_of)}, the model's vocabulary is {config.vocab_size}; "
            "give the tokenizer that the model was trained with"
        )
    files = {} if alone else {"tokenizer.json": main.read_bytes()}
    files |= {name: (path / name).read_bytes() for name in _TOKENIZER_FILES if (path / name).is_file()}
    if "tokenizer_config.json" in files:
        if "auto_map" in read_json(path / "tokenizer_config.json"):
            raise ValueError(f"{path}: tokenizer_config.json has an auto_map: it needs code of its own, refused here")
    else:
        # without a class name transformers guesses one from the model's type, and each of its versions its own way
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        settings |= {"model_max_length": config.max_seq_len, "clean_up_tokenization_spaces": False}
        for key, index in (("eos_token", eos_id), ("bos_token", bos_id)):
            if index is not None and index in token_of:
                settings[key] = token_of[index]
        files["tokenizer_config.json"] = (json.dumps(settings, indent=2) + "\n").encode()
    return files
