"""Which kernel class a stretch of work belongs to: by its own name, and by what launched it.

In this order, the first answer counts:
1. our kernels and custom ops, whose names are read from the source of their op's folder;
2. attention and the optimizer keep all that is launched within them, products included;
3. libraries' kernels by name: products, attention, norm, the optimizer's, and the fused names that Inductor makes of
   the ops it has fused;
4. the scope that launched it (`litespark.benchmarks.profile.scopes`), or the one of its forward op;
5. the op that launched it;
6. the module around it. What remains is "other".

copies are copies, casts, fills, sums of gradients and the embedding, where no other op needs them for itself.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import litespark.ops
from litespark.planning.roofline import KERNEL_CLASSES

OTHER = "other"
CLASSES = (*KERNEL_CLASSES[:-1], OTHER)  # a profile has no idle ones

# folder of `litespark.ops` -> class
OP_CLASSES = {
    "rms_norm": "norm",
    "rms_norm_of_update": "norm",
    "rope": "rope",
    "swiglu": "activation",
    "attention": "attention",
    "linear_cross_entropy": "loss",
    # casts by themselves; fused ones are of the op that they are fused into
    "fp8": "copies",
    "swiglu_fp8": "activation",
    "linear": "gemm",
    "adamw": "optimizer",
}

_SCOPE, _WITHIN = "litespark.class=", "litespark.within="
_OWN = "litespark::"
_OWN_OPS = re.compile(r'"litespark::([A-Za-z_]+)')
# launched ones: those that only others call begin with `_`
_OWN_KERNELS = re.compile(r"^@triton\.jit.*\ndef ([a-z]\w*)", re.MULTILINE)
_KEEPS_ALL = ("attention", "optimizer")

_FUSED = re.compile(r"(?:triton|cpp)_(?:([a-z]+)_)?fused_(.*?)(?:_\d+)?$")
# what Inductor's names say, by words of which one is among a kernel's; the first line that fits counts, and a kernel
# that fuses two classes goes to the one that stands first
_FUSED_WORDS = (
    ("attention", r"flex_attention|scaled_dot_product"),
    ("loss", r"log_softmax|logsumexp|nll_loss|cross_entropy"),
    ("activation", r"silu|sigmoid"),
    ("attention", r"softmax"),
    ("norm", r"rsqrt|pow|rms_norm"),
    ("rope", r"cos|sin|neg|rotary|rope"),
    ("copies", r"embedding|float8|amax|abs|clamp"),
)
_MOVING = frozenset(
    "to copy clone cat transpose view permute t expand zeros full empty select slice split unsqueeze squeeze unsafe "
    "reshape like scatter backward new index put".split()
)

# names of libraries' kernels and of PyTorch's ops; the first that fits counts
_LIBRARY = {
    kernel_class: re.compile(pattern, re.IGNORECASE)
    for kernel_class, pattern in {
        "attention": r"flash|fmha|sdpa|scaled_dot_product|attention|mha_",
        "loss": r"cross_entropy|nll_loss|log_?softmax",
        "optimizer": r"adam|multi_tensor_apply|_foreach_|lpnorm|aten::_amp_",
        "gemm": (
            r"(?<!fb)gemm|nvjet|xmma|cutlass|cublas|splitk|gemv|Cijk_|aten::(add|b|baddb)?mm_?$|aten::_?scaled_mm|triton_mm"
        ),
        "norm": r"rms_?norm|layer_?norm",
        "rope": r"rope\b|_rope|rotary",
        "activation": r"swiglu|silu|geglu",
    }.items()
}

# ops (and the nodes of autograd) that say what they are for; products are here for what they launch beside the product
_BY_OP = {
    "copies": re.compile(
        r"^aten::(copy_|_?to(_copy)?|clone|contiguous|cat|stack|embedding\w*|index_select|fill_|zero_|zeros\w*|pin_memory)$"
        r"|AccumulateGrad|EmbeddingBackward|ToCopyBackward|^Mem(cpy|set)|_copy_kernel"
    ),
    "gemm": re.compile(
        r"^aten::(linear|matmul|mm|addmm|bmm)$|^(Addmm|Mm|Bmm|Linear|T|Transpose|UnsafeView)Backward0?$"
    ),
    "attention": re.compile(r"softmax|Softmax"),
    "optimizer": re.compile(r"^aten::linalg_vector_norm$"),
}
_EVALUATION = "autograd::engine::evaluate_function"
# around a launch, and no op: annotations, the engine, and calls of compiled graphs, whose names are hashes
_UNTOLD = (_SCOPE, _WITHIN, _EVALUATION, "## Call", "Torch-Compiled Region")
_NODE = re.compile(r"Backward\d*$")
_SUM = ("aten::add", "aten::add_")


def scope(kernel_class: str) -> str:
    """Name of an annotation around work that is of one class, but for its products."""
    return _SCOPE + kernel_class


def within(kernel_class: str) -> str:
    """Name of an annotation around a module: of this class is what nothing else says anything about."""
    return _WITHIN + kernel_class


def in_a_module(launched_by: Iterable[str]) -> bool:
    """Whether the forward pass of a module is around a launch."""
    return any(label.startswith(_WITHIN) for label in launched_by)


def class_of(name: str, launched_by: Sequence[str] = (), forward: Sequence[str] = ()) -> str:
    """The class of a kernel, or of an op's own time; `launched_by` and `forward` as in `Busy`."""
    around = (*launched_by, *forward)
    if (own := _own(name)) is not None:
        return own
    scoped = _scoped(around)
    if scoped in _KEEPS_ALL:
        return scoped
    if (named := _fused(name) or _first(_LIBRARY, name)) is not None:
        return named
    if scoped is not None:
        return scoped
    if name in _SUM and launched_by and launched_by[0].startswith(_EVALUATION):
        return "copies"
    for label in (name, *around):
        if (op_class := _first(_BY_OP, label)) is not None:
            return op_class
    return next((label.removeprefix(_WITHIN) for label in around if label.startswith(_WITHIN)), OTHER)


def launcher(launched_by: Sequence[str]) -> str | None:
    """The op that launched a kernel, with the node of autograd it ran for; None where there is none."""
    ops = [op for op in launched_by if not op.startswith(_UNTOLD)]
    if not ops:
        return None
    node = next((op for op in ops[1:] if _NODE.search(op)), None)
    return ops[0] if node is None else f"{ops[0]} in {node}"


def _scoped(launched_by: Iterable[str]) -> str | None:
    """The class of the nearest annotation, op of ours or op with a name that says its class."""
    for op in launched_by:
        if op.startswith(_SCOPE):
            return op.removeprefix(_SCOPE)
        if op.startswith(_WITHIN):
            continue
        if op.startswith("Optimizer."):  # PyTorch annotates step and zero_grad
            return "optimizer"
        if (scope := _own(op)) is not None or (scope := _first(_LIBRARY, op)) not in (None, "gemm"):
            return scope
    return None


def _own(name: str) -> str | None:
    # an eager op is a node of autograd by its name
    return own_names().get(name.removeprefix(_OWN).removesuffix("Backward"))


def _first(patterns: Mapping[str, re.Pattern[str]], name: str) -> str | None:
    return next((kernel_class for kernel_class, pattern in patterns.items() if pattern.search(name)), None)


def _fused(name: str) -> str | None:
    """The class of a kernel of Inductor, or None: not one of its, or its name says nothing."""
    match = _FUSED.search(name)
    if match is None:
        return None
    kind, words = match.group(1), match.group(2).strip("_")
    if kind == "tem" and "attention" not in words:
        return "gemm"
    for kernel_class, pattern in _FUSED_WORDS:
        if re.search(rf"(?:^|_)(?:{pattern})(?:_|$)", words):
            return kernel_class
    return "copies" if set(re.split(r"_+", words)) <= _MOVING else None


@cache
def own_names() -> dict[str, str]:
    """Name -> class of every kernel and custom op of `litespark.ops`, from its source: nothing is imported."""
    folder = Path(litespark.ops.__path__[0])
    names: dict[str, str] = {}
    for op, kernel_class in OP_CLASSES.items():
        for file in sorted((folder / op).glob("*.py")):
            text = file.read_text(encoding="utf-8")
            names |= dict.fromkeys([*_OWN_OPS.findall(text), *_OWN_KERNELS.findall(text)], kernel_class)
    return names
