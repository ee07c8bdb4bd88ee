"""Reads off the source who imports whom, where big libraries appear, how long files are and what they are called.

Everything is read from the syntax tree, so an import inside a function, under TYPE_CHECKING or through importlib
counts as well. Each rule is a function from a source tree to a list of complaints; `test_architecture.py` runs them on
this repository and on planted violations.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ALL_ROOMS = {*"run benchmarks callbacks training tasks planning reports config models data ops metrics".split()}
# what a run records: who measures fills it in, who reports reads it
RECORD = {"run.record", "run.record_fp8", "run.record_ops", "run.metric_rows"}
# The table of the design: room -> what of ours it may import besides itself. `a.b` means that one module only.
MAY_IMPORT: dict[str, set[str]] = {
    "train": {"run", "threads"},
    "cli": {"config", "run", "benchmarks", "planning", "reports", "data", "models", "threads", "parent"},
    "run": ALL_ROOMS - {"run", "benchmarks"} | {"launch", "parent", "child_process"},
    "benchmarks": {*"run training tasks data models ops metrics planning launch child_process".split()},
    "callbacks": {"training", "models", "data.batch", "ops", "metrics", "planning", *RECORD},
    "training": {"tasks", "models", "ops", "data.batch", "data.examples.batch", "metrics"},
    "tasks": {
        "models",
        "ops",
        "data.batch",
        "data.examples.batch",
        "data.examples.example",
        "data.manifest",
        "metrics",
        "parent",
    },
    "planning": {"models", "ops", "training.optim", "training.parallel.config", "metrics"},
    "reports": {
        "config.groups",
        "models.huggingface.table",
        "metrics",
        "planning.ranks",
        *RECORD,
        "data.contents",
        "data.dropped",
        "ops",
        "data.manifest",
    },
    "models": {"ops"},
    "ops": set(),
    "metrics": {"planning.flops", *RECORD},
    "data": set(),
    "device": set(),
    "mesh": {"launch"},
    "config": {"training", "tasks", "models", "ops", "data", "metrics"},
    "ranges": set(),
    "atomic": set(),
    "terminal": set(),
    "override_text": set(),
    "threads": {"launch"},  # this and the next three: without torch
    "light_torchmetrics": set(),
    "launch": set(),
    "parent": set(),
    "child_process": {"parent", "threads"},
    "": {"models.huggingface.apply"},  # litespark/__init__.py, when it is asked for
}
# single files without anything of ours: what numbers may be, whole files, advice to paste, what is written to, what is
# imported lightly, and the names of what lies in the folder of a run
FOR_ALL = {"ranges", "atomic", "override_text", "run.folder", "terminal", "config.settings", "config.spelling"} | {
    "light_torchmetrics"
}
# as those, with torch, so a command imports it late
OVER_TORCH = {"device", "mesh"}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
HYDRA = {"hydra", "omegaconf"}
TRITON = {"triton"}
# who tells devices apart: the piece that answers for them, block sizes of each target, what Lightning calls them
TELLS_DEVICES_APART = (
    "litespark.device",
    "litespark.ops.attention.configurations",
    "litespark.training.any_accelerator",
)
# who may ask PyTorch or Lightning of ranks: the piece that answers for them, what spreads a model over them, and what
# joins them and tells Lightning which they are, what counts their collectives; and what asking looks like
NAME_RANKS = {
    "litespark.mesh",
    "litespark.training.parallel.strategy",
    "litespark.run.processes",
    "litespark.run.meeting",
} | {"litespark.benchmarks.traffic.collectives"}
ASKING_OF_RANKS = {"distributed", "is_global_zero", "global_rank", "barrier", "rank_zero_only", "rank_zero_experiment"}
# what lists the families, and what measures the native one alone; all else asks the protocols of models.spec
NAME_LLAMA = tuple(
    f"litespark.{name}" for name in "models.llama config.groups run.config benchmarks planning.roofline".split()
)
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "misc"}
MOST_LINES_IN_A_FILE = 400
MOST_LINES_IN_TRAIN = 50
MOST_SECONDS_BEYOND_TORCH = 2.0


@dataclass(frozen=True)
class Import:
    target: str  # dotted name, absolute
    line: int
    inside_function: bool


@dataclass(frozen=True)
class Module:
    name: str  # dotted name: "litespark.data.stream.modules", "train"
    path: Path
    is_package: bool

    @property
    def room(self) -> str:
        """The part of the house: "data" for litespark.data.batch, "train" for train.py, "" for litespark itself."""
        parts = self.name.split(".")
        return parts[0] if parts[0] != "litespark" else ".".join(parts[1:2])

    def within(self, *prefixes: str) -> bool:
        return any(self.name == prefix or self.name.startswith(f"{prefix}.") for prefix in prefixes)


def modules(root: Path) -> list[Module]:
    """Every Python file under root/src/litespark, and root/train.py."""
    found = []
    for path in sorted((root / "src" / "litespark").rglob("*.py")):
        parts = list(path.relative_to(root / "src").with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        found.append(Module(".".join(parts[:-1] if is_package else parts), path, is_package))
    train = root / "train.py"
    return [*found, Module("train", train, False)] if train.is_file() else found


def imports(module: Module, known: set[str]) -> Iterator[Import]:
    """Everything the module imports. `from a.b import c` is a.b.c where that is a module in `known`, otherwise a.b."""

    def visit(node: ast.AST, inside_function: bool) -> Iterator[Import]:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(alias.name, node.lineno, inside_function)
            case ast.ImportFrom():
                base = absolute_base(module, node)
                for alias in node.names:
                    submodule = f"{base}.{alias.name}"
                    yield Import(submodule if submodule in known else base, node.lineno, inside_function)
            case ast.Call(args=[ast.Constant(value=str(target)), *_]) if called_name(node) == "import_module":
                yield Import(target, node.lineno, inside_function)
        inside_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside_function)

    yield from visit(ast.parse(module.path.read_text(encoding="utf-8"), str(module.path)), False)


def importable_names(house: list[Module]) -> set[str]:
    """The modules, the folders that hold them, and the rooms of the table, present or not."""
    names = {f"litespark.{room}" for room in MAY_IMPORT if room not in {"train", ""}}
    for module in house:
        parts = module.name.split(".")
        names |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return names


def absolute_base(module: Module, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def forbidden_room_imports(root: Path) -> list[str]:
    """Imports among our own rooms that the table does not allow, and rooms that the table does not know."""
    house, complaints = modules(root), []
    known = importable_names(house)
    for module in house:
        if module.room not in MAY_IMPORT:
            complaints.append(f"{module.path}: room {module.room!r} is not in the table of the design")
            continue
        for found in imports(module, known):
            head, _, ours = found.target.partition(".")
            if head != "litespark" or not ours or ours.split(".")[0] == module.room:
                continue
            allowed = MAY_IMPORT[module.room]
            if not any(ours == name or ours.startswith(f"{name}.") for name in allowed | FOR_ALL | OVER_TORCH):
                permitted = ", ".join(sorted(allowed)) or "nothing of ours"
                where = f"{module.path}:{found.line}: {module.name} imports {found.target}"
                complaints.append(f"{where}, but {module.room or 'litespark'} may import only {permitted}")
            elif module.room == "cli" and not found.inside_function and ours not in FOR_ALL:
                complaints.append(f"{module.path}:{found.line}: cli imports {found.target} outside a command")
    return complaints


def misplaced_libraries(root: Path) -> list[str]:
    """Lightning, Hydra or Triton imported where the design does not allow it."""
    house, complaints = modules(root), []
    known = importable_names(house)
    for module in house:
        allowed: set[str] = set()
        if module.within("litespark.run", "litespark.callbacks", "litespark.training", "litespark.data.stream.modules"):
            allowed |= LIGHTNING
        if module.within("litespark.training.optim"):
            allowed -= LIGHTNING
        if module.within("train", "litespark.cli", "litespark.run"):
            allowed |= HYDRA
        if is_kernel_file(module):
            allowed |= TRITON
        for found in imports(module, known):
            library = found.target.split(".")[0]
            if library in (LIGHTNING | HYDRA | TRITON) - allowed:
                complaints.append(f"{module.path}:{found.line}: {module.name} may not import {library}")
    return complaints


def devices_told_apart(root: Path) -> list[str]:
    """Code that names a kind of device, or what PyTorch has for one, where `litespark.device` should be asked."""
    return [
        f"{module.path}:{node.lineno}: {module.name} has {ast.unparse(node)}; ask litespark.device"
        for module in modules(root)
        if not is_kernel_file(module) and not module.within(*TELLS_DEVICES_APART)
        for node in ast.walk(ast.parse(module.path.read_text(encoding="utf-8")))
        if isinstance(node, ast.expr) and tells_devices_apart(node)
    ]


def tells_devices_apart(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value="cuda") | ast.Attribute(attr="cuda" | "is_cuda" | "hip"):
            return True
        case ast.Attribute(value=ast.Name("torch"), attr="accelerator" | "autocast" | "mps" | "xpu"):
            return True
        case ast.Compare(left=ast.Attribute(attr="type"), comparators=[other]):
            return any(isinstance(part, ast.Constant) for part in ast.walk(other))
    return False


def asked_of_ranks(root: Path) -> list[str]:
    """Code that asks torch.distributed or Lightning where `litespark.mesh` should be asked; DTensor is free."""

    def names(node: ast.AST) -> set[str]:
        match node:
            case ast.Import():
                return {alias.name.removeprefix("torch.") for alias in node.names}
            case ast.ImportFrom():
                return {alias.name for alias in node.names} | {(node.module or "").removeprefix("torch.")}
            case ast.Attribute():
                return {node.attr}
        return set()

    return [
        f"{module.path}:{node.lineno}: {module.name} asks of ranks by {', '.join(named)}; ask litespark.mesh"
        for module in modules(root)
        if module.name not in NAME_RANKS
        for node in ast.walk(ast.parse(module.path.read_text(encoding="utf-8")))
        if (named := names(node) & ASKING_OF_RANKS)
    ]


def named_families(root: Path) -> list[str]:
    """Code that imports the native family where it should ask the protocols of any."""
    house = modules(root)
    known = importable_names(house) | {"litespark.models.llama"}
    return [
        f"{module.path}:{found.line}: {module.name} imports {found.target}; ask a protocol of litespark.models.spec"
        for module in house
        if not module.within(*NAME_LLAMA)
        for found in imports(module, known)
        if f"{found.target}.".startswith("litespark.models.llama.")
    ]


def is_kernel_file(module: Module) -> bool:
    return re.fullmatch(r"litespark\.ops\.(triton_support|compilation|launches|\w+\.kernels)", module.name) is not None


def unshapely_files(root: Path) -> list[str]:
    """Files that are too long, names that say nothing."""
    complaints = []
    for module in modules(root):
        lines = len(module.path.read_text(encoding="utf-8").splitlines())
        most = MOST_LINES_IN_TRAIN if module.name == "train" else MOST_LINES_IN_A_FILE
        if lines > most:
            complaints.append(f"{module.path} has {lines} lines, at most {most} are allowed")
        if named := FORBIDDEN_NAMES & set(module.name.split(".")):
            complaints.append(f"{module.path}: a module named {', '.join(named)} says nothing about its subject")
    return complaints


MEASURE_IMPORT = """
import sys, time
for name in sys.argv[2].split(","):
    sys.modules[name] = None  # makes `import name` raise ModuleNotFoundError
if "torch" not in sys.modules:
    import torch
start = time.process_time()  # other work on the machine takes none of it
for name in sys.argv[1].split(","):
    __import__(name)
print(time.process_time() - start)
print(sys.modules["litespark"].__file__)
"""


def import_in_a_fresh_process(root: Path, *names: str, blocked: set[str]) -> tuple[float, str]:
    """(seconds that importing `names` takes beyond torch, "") or (inf, what was raised); `blocked` is unimportable."""
    command = [sys.executable, "-c", MEASURE_IMPORT, ",".join(names), ",".join(sorted(blocked))]
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if finished.returncode:
        return float("inf"), finished.stderr
    seconds, file = finished.stdout.splitlines()[-2:]
    assert Path(file).is_relative_to(root), f"imported {file} and not the tree under {root}"
    return float(seconds), ""
