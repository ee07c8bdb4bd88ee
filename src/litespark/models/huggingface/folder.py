"""Hugging Face folders of any causal language model, both ways: `config.json`, safetensors, tokenizer files."""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from litespark.atomic import written_whole
from litespark.models.exported_tokenizer import tokenizer_files
from litespark.models.huggingface.model import CausalLM
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.safetensors_folder import SafetensorsReader, end_ids, read_json
from litespark.ops.backend import Ops

# of the files that wrote it, or choices of how to compute, some of which would fetch code
_LEFT_OUT = (
    "transformers_version _name_or_path dtype torch_dtype use_cache id2label label2id attn_implementation "
    "_attn_implementation _attn_implementation_internal experts_implementation _experts_implementation"
).split()
# what every config states, and how large it may be: layers are built, if only on meta
_SIZES = {"vocab_size": 2**31, "hidden_size": 2**31, "num_hidden_layers": 10_000}


def read_config(path: Path, name: str) -> HuggingFaceConfig:
    """The config of the folder in which the `config.json` at `path` lies.

    Raises:
        ValueError: it cannot be read, would need code of its own, or is not of a causal language model of transformers.
    """
    content = read_json(path)
    config = transformers_config(content, path)
    stated = json.loads(config.to_json_string(use_diff=False))
    if ids := end_ids(path.parent):
        stated["eos_token_id"] = ids if len(ids) > 1 else ids[0]
    return HuggingFaceConfig(
        str(path.parent), config={key: value for key, value in stated.items() if key not in _LEFT_OUT}
    )


def transformers_config(content: Mapping[str, Any], path: Path | str = "model.config") -> Any:
    """The object of transformers for what a `config.json` says; a ValueError as `read_config`."""
    try:
        from transformers import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as causal_lms
    except ImportError as error:
        raise ValueError(
            f"{path}: this model needs transformers, which cannot be imported ({error}); pip install 'transformers>=5'"
        ) from error

    if "auto_map" in content:
        raise ValueError(
            f"{path} has an auto_map: the model needs code of its own, which would have to be trusted and is not run; "
            "choose a model whose architecture is in transformers"
        )
    kind = str(content.get("model_type"))
    if kind not in CONFIG_MAPPING:
        from transformers import __version__

        raise ValueError(
            f"{path}: model_type is {kind!r}, which transformers {__version__} does not have; is it the config.json of "
            "a language model? A newer transformers may have it"
        )
    expected, stated = causal_lms.get(kind), content.get("architectures") or [None]
    if expected is None or content.get("is_encoder_decoder") or stated not in ([None], [expected]):
        raise ValueError(
            f"{path}: got {stated!r:.80} of model_type {kind}, expected a causal language model"
            f"{f' ({expected})' if expected else ''}; choose another model"
        )
    if content.get("quantization_config"):
        raise ValueError(
            f"{path} has a quantization_config; quantised weights are not trained, choose the model without"
        )
    kept = {key: value for key, value in content.items() if key not in _LEFT_OUT}
    try:
        with quiet():
            config = CONFIG_MAPPING[kind].from_dict(kept)
    except Exception as error:  # of another library, which has its own kinds
        raise ValueError(f"{path}: transformers does not take it: {str(error).strip()[:300]}") from error
    if config.is_encoder_decoder or config.get_text_config() is not config:
        raise ValueError(
            f"{path}: {kind} is a model of several parts, expected a causal language model of text alone; choose its "
            "text model"
        )
    for key, most in _SIZES.items():
        stated_as = next((name for name in (key, config.attribute_map.get(key)) if name in kept), None)
        if stated_as is None:
            raise ValueError(f"{path} lacks {key}; is the folder complete?")
        if type(size := kept[stated_as]) is not int or not 1 <= size <= most:
            raise ValueError(f"{path}: {stated_as} is {size!r:.80}; expected a whole number from 1 to {most}")
    return config


def load_huggingface(folder: Path | str, ops: Ops) -> CausalLM:
    """Read a folder in fp32 on the CPU; the model computes with `ops` where the table has a place for them.

    Raises:
        ValueError: as `read_config`; a file of weights is missing or damaged; a tensor is missing, too many, or of
            another shape than the config says.
    """
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    spec = read_config(folder / "config.json", folder.name)
    SafetensorsReader(folder)
    try:
        with quiet():
            pair: Any = AutoModelForCausalLM.from_pretrained(
                folder, config=spec.transformers, dtype=torch.float32, local_files_only=True, trust_remote_code=False,
                use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except Exception as error:  # of another library, which has its own kinds
        raise ValueError(f"{folder}: transformers cannot read it: {str(error).strip()[:300]}") from error
    loaded, loading_info = pair
    for key, wrong in (("missing_keys", "lacks"), ("mismatched_keys", "has in another shape"), ("unexpected_keys", "")):
        if names := sorted(str(name) for name in loading_info[key]):
            listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise ValueError(
                f"{folder} {wrong or 'has beside'} what its config.json implies: {listed}; fetch the folder again"
            )
    return CausalLM(spec, ops, "none", loaded)


def export_huggingface(
    model: CausalLM,
    folder: Path | str,
    *,
    tokenizer: Path | str | None = None,
    eos_id: int | None = None,
    bos_id: int | None = None,
    pad_id: int | None = None,
) -> Path:
    """Write a folder that transformers loads, complete or not at all; see `models.llama.huggingface`."""
    folder, causal_lm = Path(folder), model.causal_lm
    files = {} if tokenizer is None else tokenizer_files(Path(tokenizer), model.config, eos_id, bos_id)
    for config, ids in (
        (causal_lm.config, {"eos_token_id": eos_id, "bos_token_id": bos_id}),
        (causal_lm.generation_config, {"eos_token_id": eos_id, "bos_token_id": bos_id, "pad_token_id": pad_id}),
    ):
        for key, value in ids.items():
            stated = getattr(config, key, None)
            if value is not None and not (isinstance(stated, list) and value in stated):
                setattr(config, key, value)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists and is not empty; export into a new folder, or remove it first")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(folder) as partial:
            with quiet():
                (causal_lm if model.config.num_labels is None else _classifier(model)).save_pretrained(partial)
            for name, content in files.items():
                (partial / name).write_bytes(content)
    except OSError as error:
        raise ValueError(f"cannot export to {folder}: {error.strerror or error}; choose another folder") from error
    return folder


def _classifier(model: CausalLM) -> Any:
    """The sequence classifier of transformers that a model with a head of labels is, with its weights."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(model.causal_lm.config)
    config.num_labels = model.config.num_labels
    body = model.causal_lm.base_model.state_dict()
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config)
        weights = {f"{classifier.base_model_prefix}.{name}": values for name, values in body.items()}
        classifier.load_state_dict({**weights, "score.weight": model.head_weight}, assign=True)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{config.model_type}: got a family of which transformers has no sequence classifier of this form "
            f"({str(error).strip()[:200]}), expected one with `score`; its checkpoints can be read by litespark alone"
        ) from error
    return classifier


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and the advice of transformers."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
