"""Llama folders of Hugging Face transformers, both ways: `config.json`, safetensors, tokenizer files."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from litespark.atomic import written_whole
from litespark.mesh import Mesh
from litespark.models.exported_tokenizer import tokenizer_files
from litespark.models.init import fill_weights
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.huggingface_config import (
    all_eos_ids,
    read_config,
    to_huggingface_config,
    why_not_transformers,
)
from litespark.models.llama.huggingface_config import why_not_native as why_not_native
from litespark.models.llama.model import Llama
from litespark.models.parallel_layers import Part
from litespark.models.placement import local_piece
from litespark.models.safetensors_folder import SafetensorsReader, SafetensorsWriter
from litespark.ops.backend import Ops, OpsConfig, resolve

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_SCORE = "score.weight"  # of a sequence classifier


def huggingface_parts(config: LlamaConfig) -> dict[str, list[tuple[str, int]]]:
    """Our parameter name -> the transformers parameters whose rows, one under the other, make it: (name, rows)."""
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    parts: dict[str, list[tuple[str, int]]] = {"embedding.weight": [(_EMBEDDING, config.vocab_size)]}
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        parts[f"{ours}.attention_norm.weight"] = [(f"{theirs}.input_layernorm.weight", config.hidden_size)]
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            parts[f"{ours}.attention.qkv.{kind}"] = [
                (f"{theirs}.self_attn.q_proj.{kind}", query),
                (f"{theirs}.self_attn.k_proj.{kind}", key),
                (f"{theirs}.self_attn.v_proj.{kind}", key),
            ]
            parts[f"{ours}.attention.output.{kind}"] = [(f"{theirs}.self_attn.o_proj.{kind}", config.hidden_size)]
        parts[f"{ours}.mlp_norm.weight"] = [(f"{theirs}.post_attention_layernorm.weight", config.hidden_size)]
        for kind in ("weight", "bias") if config.mlp_bias else ("weight",):
            parts[f"{ours}.mlp.gate_up.{kind}"] = [
                (f"{theirs}.mlp.gate_proj.{kind}", config.intermediate_size),
                (f"{theirs}.mlp.up_proj.{kind}", config.intermediate_size),
            ]
            parts[f"{ours}.mlp.down.{kind}"] = [(f"{theirs}.mlp.down_proj.{kind}", config.hidden_size)]
    parts["norm.weight"] = [("model.norm.weight", config.hidden_size)]
    if not config.ties_head:
        parts["head.weight"] = [(_HEAD if config.num_labels is None else _SCORE, config.head_rows)]
    return parts


def load_huggingface(folder: Path | str, ops: Ops) -> Llama:
    """Read a Llama folder with `config.json` and safetensors, in fp32 on the CPU; the model is called after the folder.

    Raises:
        ValueError: a file is missing, truncated or damaged; the architecture, activation, quantisation or rotary
            type is not this model's; a tensor is missing, too many, or of another shape than the config says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with config.json and safetensors")
    config = read_config(folder / "config.json", folder.resolve().name)
    reader = _reader(folder, config)
    with torch.device("meta"):
        model = Llama(config, ops)
    model.to_empty(device="cpu")
    _fill(model, folder, config, reader)
    return model


def fill_huggingface(folder: Path | str, model: nn.Module, *, head: bool = True) -> None:
    """Give a built model of the folder's sizes its weights, in place: a rank reads the rows that it holds of a sharded
    one. Without `head`, its `head_weight` stays as it is. A ValueError as `load_huggingface`."""
    folder = Path(folder)
    config = read_config(folder / "config.json", folder.resolve().name)
    _fill(model, folder, config, _reader(folder, config), head=head)


def _reader(folder: Path, config: LlamaConfig) -> SafetensorsReader:
    reader = SafetensorsReader(folder)
    # before anything of the stated sizes is made, which may be any number
    if config.num_layers > len(reader.shapes):
        raise ValueError(
            f"{folder} has {len(reader.shapes)} tensors, too few for the {config.num_layers} layers of "
            "its config.json; fetch the folder again"
        )
    return reader


def _fill(model: nn.Module, folder: Path, config: LlamaConfig, reader: SafetensorsReader, *, head: bool = True) -> None:
    tied_head = config.tie_embeddings and _HEAD in reader.shapes
    # of two names for one tensor, some writers keep the first of the alphabet
    stored = {_EMBEDDING: _HEAD} if tied_head and _EMBEDDING not in reader.shapes else {}
    with torch.device("meta"):
        shapes = _part_shapes(Llama(config, resolve(OpsConfig())))
    # older exports carry rotary tables, and a tied head's copy of the embedding
    copied_head = tied_head and not stored
    needless = {name for name in reader.shapes if "rotary_emb." in name or (copied_head and name == _HEAD)}
    _compare_shapes(folder, reader.shapes, {stored.get(name, name): shape for name, shape in shapes.items()}, needless)
    parts = huggingface_parts(config)

    def give(name: str, parameter: Tensor, part: Part | None) -> None:
        target, (row, *column) = local_piece(parameter)
        first, begin = row + (0 if part is None else part.first), 0
        for theirs, rows in parts[name]:
            low, high = max(begin, first), min(begin + rows, first + len(target))
            if low < high:
                source = reader.rows(stored.get(theirs, theirs), low - begin, high - begin)
                if column:
                    source = source[:, column[0] : column[0] + target.shape[1]]
                target[low - first : high - first].copy_(source)
            begin += rows

    fill_weights(model, give, head=head)
    if copied_head:
        embedding, its_head = (tensor for _, tensor in sorted(reader.read([_HEAD, _EMBEDDING])))
        if not torch.equal(its_head.to(torch.float32), embedding.to(torch.float32)):
            raise ValueError(
                f"{folder}: tie_word_embeddings is true, but lm_head.weight differs from the embedding; "
                "set it to false in config.json if the head is meant to be its own"
            )


def export_huggingface(
    model: Llama,
    folder: Path | str,
    *,
    tokenizer: Path | str | None = None,
    eos_id: int | None = None,
    bos_id: int | None = None,
    pad_id: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write a folder that transformers loads, complete or not at all: beside the target, then renamed.

    With sharded (DTensor) parameters every rank must call this; rank 0 writes, and the folder is there when it returns.

    Args:
        tokenizer: a `tokenizer.json`, or a folder with one or with a `tokenizer.model` and what belongs to it; copied.
            None: weights only.
        pad_id: for `generation_config.json` alone, since a model whose config has it does not train it.

    Raises:
        ValueError: the target exists, cannot be written or has too little space; the tokenizer is missing, has ids that
            the model has not, or needs code of its own; transformers accepts no such sizes.
    """
    folder = Path(folder)
    if (reason := why_not_transformers(model.config)) is not None:
        raise ValueError(f"{reason}; such a model cannot be exported")
    files = tokenizer_files(Path(tokenizer), model.config, eos_id, bos_id) if tokenizer is not None else {}
    dtype = model.embedding.weight.dtype
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in _part_shapes(model).items()}
    if not Mesh().is_first:
        _write_weights(model, None)
        return folder
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists and is not empty; export into a new folder, or remove it first")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # room for the small files beside the weights
        needed, free = sum(sizes.values()) + 50_000_000, shutil.disk_usage(folder.parent).free
        if free < needed:
            raise ValueError(f"{folder.parent} has {free / 1e9:.1f} GB free, the export needs {needed / 1e9:.1f} GB")
        with written_whole(folder) as partial:
            partial.mkdir()
            _write_weights(model, SafetensorsWriter(partial, sizes, max_shard_bytes))
            _write_json(partial / "config.json", to_huggingface_config(model.config, dtype, eos_id, bos_id))
            ends = all_eos_ids(model.config, eos_id)
            generation = {"eos_token_id": ends, "bos_token_id": bos_id, "pad_token_id": pad_id}
            _write_json(partial / "generation_config.json", generation)
            for name, content in files.items():
                (partial / name).write_bytes(content)
    except OSError as error:
        raise ValueError(f"cannot export to {folder}: {error.strerror or error}; choose another folder") from error
    return folder


def _part_shapes(model: Llama) -> dict[str, tuple[int, ...]]:
    """The shapes of the transformers parameters, in the order in which they are written."""
    return {
        name: (rows, *model.get_parameter(ours).shape[1:])
        for ours, parts in huggingface_parts(model.config).items()
        for name, rows in parts
    }


def _compare_shapes(
    folder: Path, shapes: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], needless: set[str]
) -> None:
    missing = sorted(expected.keys() - shapes.keys())
    if missing:
        remedy = ""
        if missing == [_HEAD]:
            remedy = "; set tie_word_embeddings to true in config.json if the head is the embedding's"
        raise ValueError(
            f"{folder} lacks {len(missing)} of the tensors its config.json implies: {_some(missing)}{remedy}"
        )
    extra = sorted(shapes.keys() - expected.keys() - needless)
    if extra:
        raise ValueError(f"{folder} has {len(extra)} tensors that a Llama of its config.json has not: {_some(extra)}")
    for name, shape in expected.items():
        if shapes[name] != shape:
            remedy = ""
            if name in (_EMBEDDING, _HEAD) and shapes[name][1:] == shape[1:]:
                remedy = f"; set vocab_size to {shapes[name][0]} in config.json if all its rows are meant"
            raise ValueError(f"{folder}: {name} is {shapes[name]}; its config.json implies {shape}{remedy}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _write_weights(model: Llama, writer: SafetensorsWriter | None) -> None:
    """Gather every parameter in the same order on all ranks; where there is a writer, write it."""
    for ours, parts in huggingface_parts(model.config).items():
        parameter = model.get_parameter(ours).detach()
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if writer is not None:
            for (name, _), tensor in zip(parts, whole.split([rows for _, rows in parts]), strict=True):
                writer.add(name, tensor)
    if writer is not None:
        writer.finish()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
