"""LoRA and DoRA on a built model: put on, drawn, switched off for a while, merged, and in PEFT's files.

`peft` makes the layers and their arithmetic. Ours is what it has no part in: layers that lie in one matrix
(`ops.linear.split`), and values that are the same however a model is sharded. K inputs and N outputs of a layer.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litespark.models.adapters.config import LoraAdapter, import_peft
from litespark.models.init import assign
from litespark.models.spec import ModelSpec, TakesAdapters
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.linear.split import Rows, join, row_norms

# how PEFT calls the only adapter of a model, and the parts of one: in a model, and in a file
_NAME = "default"
_PARTS = {"lora_A.default.weight": "lora_A.weight", "lora_B.default.weight": "lora_B.weight",
          "lora_magnitude_vector.default.weight": "lora_magnitude_vector"}  # fmt: skip
_PREFIX = "base_model.model."
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# settings in a file: those that are compared with ours, that the names of the weights show, that compute nothing
_COMPARED = {"r": "rank", "lora_alpha": "alpha", "use_dora": "dora", "use_rslora": "rslora"}
_SHOWN = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
_IDLE = ("base_model_name_or_path", "revision", "auto_mapping", "peft_version", "task_type", "inference_mode",
         "lora_dropout", "eva_config")  # fmt: skip
# others than these change the weights of the base too
_DRAWS = (True, False, "gaussian", "eva", "orthogonal")


def put_on(model: nn.Module, spec: ModelSpec, config: LoraAdapter) -> None:
    """Put an adapter on a built model, also on meta, in place; all else of it is frozen from now on.

    A ValueError where `peft` is not installed or a target matches no layer.
    """
    assert isinstance(spec, TakesAdapters)
    peft = import_peft()
    layers = spec.linear_layers(model)
    chosen = config.chosen(layers)
    peft.inject_adapter_in_model(config.of_peft([layers[name] for name in chosen]), model, _NAME)
    for layer in adapted_layers(model).values():
        # autocast casts; PEFT would write the input in fp32 first
        layer.cast_input_dtype_enabled = False
    # PEFT's names of layers -> ours, for files
    model.adapted = {name: layers[name] for name in chosen}  # type: ignore[assignment]


def layers_of(spec: TakesAdapters) -> list[str]:
    """The linear layers of a family's model by their names in transformers."""
    with torch.device("meta"):
        return list(spec.linear_layers(spec.build(resolve(OpsConfig()), "none")))


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of PEFT in a model, by their place."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def begin(model: nn.Module, config: LoraAdapter) -> None:
    """Let the adapter of a model whose weights are there begin, in place: from `config.path`, or as the base is."""
    if config.path is not None:
        fill(model, config, Path(config.path))
        return
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            for magnitude in layer.lora_magnitude_vector.values():
                assign(magnitude.weight, row_norms(layer.base_layer))


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within it `model` is the base that its adapter stands on, as a reference model; without one a ValueError."""
    layers = list(adapted_layers(model).values())
    if not layers:
        raise ValueError("got a model without an adapter, expected one with; choose adapter=lora")
    for layer in layers:
        # not PEFT's own switch, which sets requires_grad too: DDP and FSDP2 have asked for it before
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merge(model: nn.Module) -> None:
    """Add the adapter to the weights of the base and take it off, in place; for a model that is not sharded."""
    for place, layer in adapted_layers(model).items():
        base = layer.base_layer
        if isinstance(base, Rows):  # PEFT may put another tensor in the place of the weight
            layer.base_layer = alone = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
            alone.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)
        layer.merge()
        with torch.no_grad():
            if isinstance(base, Rows):
                base.weight.copy_(layer.base_layer.weight)
        parent, _, name = place.rpartition(".")
        setattr(model.get_submodule(parent), name, base)
    join(model)
    del model.adapted
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of an adapter by their names in PEFT's files."""
    parameters, names = dict(model.named_parameters()), dict(model.adapted)  # type: ignore[arg-type]
    return {
        f"{_PREFIX}{name}.{in_file}": parameters[f"{place}.{part}"]
        for name, place in names.items()
        for part, in_file in _PARTS.items()
        if f"{place}.{part}" in parameters
    }


def save(model: nn.Module, config: LoraAdapter, folder: Path, base: str | None) -> None:
    """Write the adapter of a model that is not sharded as PEFT does into a `folder` that is there."""
    from safetensors.torch import save_file

    targets = sorted({name.rpartition(".")[2] for name in model.adapted})  # type: ignore[union-attr]
    if config.targets:
        targets = list(config.targets)
    config.of_peft(targets, base).save_pretrained(folder)
    weights = {name: parameter.detach().contiguous() for name, parameter in weights_of(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def fill(model: nn.Module, config: LoraAdapter, folder: Path) -> None:
    """Give an adapter the weights of a folder of PEFT; each rank takes its shard.

    Raises:
        ValueError: a file is missing or damaged; its settings are not `config`; it is of another model.
    """
    stated = stated_settings(folder, config)
    weights = _read(folder)
    wanted = {name: tuple(parameter.shape) for name, parameter in weights_of(model).items()}
    got = {name: tuple(values.shape) for name, values in weights.items()}
    if differing := sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name)):
        name = differing[0]
        raise ValueError(
            f"adapter.path={folder}: {name} is {got.get(name, 'absent')}, expected {wanted.get(name, 'none')} for this "
            f"model and adapter.targets ({len(differing)} differ); it is the adapter of another model "
            f"({stated.get('base_model_name_or_path')}), or of other layers ({stated.get('target_modules')})"
        )
    with torch.no_grad():
        for name, parameter in weights_of(model).items():
            assign(parameter, weights[name])


def stated_settings(folder: Path, config: LoraAdapter) -> Mapping[str, Any]:
    """The `adapter_config.json` of a folder; a ValueError where it is not of a LoRA that computes as `config` does."""
    path = folder / SETTINGS
    try:
        stated = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"adapter.path={folder}: {path} cannot be read ({error}); name a folder of PEFT") from error
    usual = import_peft().LoraConfig().to_dict()
    if not isinstance(stated, dict) or stated.get("peft_type") != "LORA":
        raise ValueError(f"adapter.path={folder}: {path} is not of a LoRA; name a folder of PEFT that is")
    other = {
        name: value
        for name, value in stated.items()
        if name not in (*_COMPARED, *_SHOWN, *_IDLE) and value and value != usual.get(name)
    }
    if other.get("init_lora_weights") in _DRAWS:
        del other["init_lora_weights"]
    if other:
        settings = ", ".join(f"{name}={json.dumps(value)}" for name, value in other.items())
        raise ValueError(
            f"adapter.path={folder}: its {SETTINGS} has {settings}, which is not trained here; merge it into its model "
            "with peft (merge_and_unload, save_pretrained), and start from that by model.path=FOLDER"
        )
    if wrong := [key for key, ours in _COMPARED.items() if stated.get(key, False) != getattr(config, ours)]:
        settings = " ".join(f"adapter.{_COMPARED[key]}={json.dumps(stated.get(key, False))}" for key in wrong)
        raise ValueError(f"adapter.path={folder}: its {SETTINGS} has other settings; set {settings}")
    return stated


def _read(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"adapter.path={folder}: {WEIGHTS} cannot be read ({error}); write it again") from error
