"""The loss of a transformers causal LM without its whole logits."""

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from litespark.models.huggingface.flattened import with_positions
from litespark.models.huggingface.table import Head
from litespark.ops.backend import Ops
from litespark.ops.linear.joined import hooked, is_plain
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses

_IGNORED = -100
# what a caller may ask of the loss; anything else is left to the model's own
_OF_LOSS = ("labels", "shift_labels", "num_items_in_batch", "ignore_index", "skip_logits", "logits_to_keep")


def head_forward(model: Any, *args: Any, **kwargs: Any) -> Any:
    """The outputs of the model's own forward; `logits` are None where the loss is made without them.

    That is where there are labels, and the model trains, or `skip_logits=True` is given; not with `skip_logits=False`.
    """
    original = type(model).replaces.forward
    if args:
        bound = inspect.signature(original).bind(model, *args, **kwargs)
        given = dict(list(bound.arguments.items())[1:])
        kwargs = {**given.pop("kwargs", {}), **given}
    skip, kwargs = kwargs.pop("skip_logits", None), with_positions(kwargs)
    if not _without_logits(model, kwargs, model.training if skip is None else skip):
        return original(model, **kwargs)
    row, ops = model.litespark.row, model.litespark.ops
    labels: Any = kwargs.get("labels")
    shifted = kwargs.get("shift_labels")
    ignored = kwargs.get("ignore_index", _IGNORED)
    body = {key: value for key, value in kwargs.items() if key not in (*_OF_LOSS, "return_dict")}
    outputs = model.base_model(**body)
    hidden = outputs.last_hidden_state
    if shifted is None:
        shifted = functional.pad(labels, (0, 1), value=ignored)[..., 1:]
    count = kwargs.get("num_items_in_batch")
    shifted = shifted.to(hidden.device).contiguous()
    reduction: Reduction = "mean" if count is None else "sum"
    loss = loss_of(model, row, ops, hidden, shifted, ignore_index=ignored, reduction=reduction)
    assert isinstance(loss, Tensor)
    if count is not None:
        loss = loss / (count.to(loss.device) if isinstance(count, Tensor) else count)
    return _output(loss, outputs, kwargs.get("return_dict", getattr(model.config, "return_dict", True)))


def loss_of(
    model: Any,
    row: Head,
    ops: Ops,
    hidden: Tensor,
    labels: Tensor,
    *,
    reduction: Reduction,
    ignore_index: int = _IGNORED,
    temperature: float = 1.0,
) -> Tensor | TokenLosses:
    """Of the last hidden states (B, S, D) and labels (B, S) that are shifted already, without whole logits."""
    if row.divisor is not None:
        hidden = hidden / getattr(model.config, row.divisor)
    if row.multiplier is not None:
        hidden = hidden * getattr(model.config, row.multiplier)
    softcap = None if row.softcap is None else getattr(model.config, row.softcap)
    if temperature != 1.0:  # the cap is of the logits before it
        hidden, softcap = hidden / temperature, None if softcap is None else softcap / temperature
    weight = model.get_output_embeddings().weight
    return ops.linear_cross_entropy(
        hidden, weight, labels, ignore_index=ignore_index, reduction=reduction, softcap=softcap
    )


def _without_logits(model: Any, kwargs: dict[str, Any], skip: bool) -> bool:
    from transformers.loss.loss_utils import ForCausalLMLoss

    asked = kwargs.get("labels") is not None or kwargs.get("shift_labels") is not None
    keep = kwargs.get("logits_to_keep", 0)
    routers = kwargs.get("output_router_logits") or getattr(model.config, "output_router_logits", False)
    # or another loss, which `model.loss_function` and `model.loss_type` may say at any time
    own = model.loss_function is not ForCausalLMLoss
    head = model.get_output_embeddings()
    plain = type(head) is nn.Linear and head.bias is None and is_plain(head.weight) and not hooked(head)
    return bool(skip and asked and not routers and not own and plain) and isinstance(keep, int) and keep == 0


def _output(loss: Tensor, outputs: Any, as_dict: bool | None) -> Any:
    from transformers.modeling_outputs import CausalLMOutputWithPast, MoeCausalLMOutputWithPast

    kind = MoeCausalLMOutputWithPast if hasattr(outputs, "router_logits") else CausalLMOutputWithPast
    kept = {key: value for key, value in outputs.items() if key in inspect.signature(kind).parameters}
    result = kind(loss=loss, **kept)
    return result if as_dict is None or as_dict else result.to_tuple()
