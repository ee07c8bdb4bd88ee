"""The house rules that can be read off the source: who imports whom, where big libraries may appear, sizes, names.

Everything is read from the syntax tree, so an import inside a function, under TYPE_CHECKING or through importlib
counts as well. Each rule is a function from a source tree to a list of complaints; the second half of this file
plants a violation of every rule in a temporary tree and demands that the same function complains.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

ALL_ROOMS = {
    "experiment",
    "benchmarks",
    "callbacks",
    "training",
    "tasks",
    "planning",
    "analysis",
    "models",
    "data",
    "ops",
    "metrics",
}
# The table of the design: room -> what of ours it may import besides itself. `a.b` means that one module only.
MAY_IMPORT: dict[str, set[str]] = {
    "train": {"experiment"},
    "cli": {"experiment", "benchmarks", "planning", "analysis", "data", "models"},
    "experiment": ALL_ROOMS - {"experiment", "benchmarks"},
    "benchmarks": {"experiment", "training", "data", "models", "ops", "metrics"},
    "callbacks": {"models", "data.batch", "ops", "metrics"},
    "training": {"tasks", "models", "ops", "data.batch", "metrics"},
    "tasks": {"models", "ops", "data.batch", "metrics"},
    "planning": {"models", "ops", "training.optim", "metrics"},
    "analysis": {"metrics"},
    "models": {"ops"},
    "ops": set(),
    "metrics": set(),
    "data": set(),
    "": set(),  # litespark/__init__.py
}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
HYDRA = {"hydra", "omegaconf"}
TRITON = {"triton"}
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "misc"}
MOST_LINES_IN_A_FILE = 400
MOST_LINES_IN_TRAIN = 39
MOST_SECONDS_BEYOND_TORCH = 2.0


@dataclass(frozen=True)
class Import:
    target: str  # dotted name, absolute
    line: int
    inside_function: bool


@dataclass(frozen=True)
class Module:
    name: str  # dotted name: "litespark.data.streaming", "train"
    path: Path
    is_package: bool

    @property
    def room(self) -> str:
        """The part of the house: "data" for litespark.data.streaming, "train" for train.py, "" for litespark itself."""
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
            case ast.Call(args=[ast.Constant(value=str(target)), *_]) if called_name(node) in {
                "import_module",
                "__import__",
            }:
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
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    kept = package[: len(package) - (node.level - 1)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def forbidden_room_imports(root: Path) -> list[str]:
    """Imports among our own rooms that the table does not allow, and rooms that the table does not know."""
    house = modules(root)
    known = importable_names(house)
    complaints = []
    for module in house:
        if module.room not in MAY_IMPORT:
            complaints.append(f"{module.path}: room {module.room!r} is not in the table of the design")
            continue
        for found in imports(module, known):
            head, _, ours = found.target.partition(".")
            if head != "litespark" or not ours or ours.split(".")[0] == module.room:
                continue
            allowed = MAY_IMPORT[module.room]
            if not any(ours == name or ours.startswith(f"{name}.") for name in allowed):
                permitted = ", ".join(sorted(allowed)) or "nothing of ours"
                complaints.append(
                    f"{module.path}:{found.line}: {module.name} imports {found.target}, "
                    f"but {module.room or 'litespark'} may import only {permitted}"
                )
            elif module.room == "cli" and not found.inside_function:
                complaints.append(f"{module.path}:{found.line}: cli imports {found.target} outside a command")
    return complaints


def misplaced_libraries(root: Path) -> list[str]:
    """Lightning, Hydra or Triton imported where the design does not allow it."""
    house = modules(root)
    known = importable_names(house)
    complaints = []
    for module in house:
        allowed: set[str] = set()
        if module.within(
            "litespark.experiment", "litespark.callbacks", "litespark.training", "litespark.data.streaming"
        ):
            allowed |= LIGHTNING
        if module.within("litespark.training.optim"):
            allowed -= LIGHTNING
        if module.within("train", "litespark.cli", "litespark.experiment"):
            allowed |= HYDRA
        if is_kernel_file(module):
            allowed |= TRITON
        for found in imports(module, known):
            library = found.target.split(".")[0]
            if library in (LIGHTNING | HYDRA | TRITON) - allowed:
                complaints.append(f"{module.path}:{found.line}: {module.name} may not import {library}")
    return complaints


def is_kernel_file(module: Module) -> bool:
    parts = module.name.split(".")
    return parts[:2] == ["litespark", "ops"] and (
        parts[2:] == ["triton_support"] or (len(parts) == 4 and parts[3] == "kernels")
    )


def unshapely_files(root: Path) -> list[str]:
    """Files that are too long, names that say nothing, a missing train.py."""
    house = modules(root)
    complaints = [] if any(module.name == "train" for module in house) else [f"{root / 'train.py'} is missing"]
    for module in house:
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
import torch
start = time.perf_counter()
__import__(sys.argv[1])
print("seconds", time.perf_counter() - start)
print("file", sys.modules["litespark"].__file__)
"""


def import_in_a_fresh_process(root: Path, name: str, *, blocked: set[str]) -> tuple[float, str]:
    """(seconds that importing `name` takes beyond torch, "") or (inf, what was raised); `blocked` is unimportable."""
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE_IMPORT, name, ",".join(sorted(blocked))],
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if finished.returncode:
        return float("inf"), finished.stderr
    printed = dict(
        line.split(" ", 1) for line in finished.stdout.splitlines() if line.startswith(("seconds ", "file "))
    )
    assert Path(printed["file"]).is_relative_to(root), f"imported {printed['file']} and not the tree under {root}"
    return float(printed["seconds"]), ""


def test_rooms_import_one_way():
    assert forbidden_room_imports(REPOSITORY) == []


def test_lightning_hydra_and_triton_stay_in_their_places():
    assert misplaced_libraries(REPOSITORY) == []


def test_files_are_short_and_named_for_their_subject():
    assert unshapely_files(REPOSITORY) == []


def test_ops_import_fast_and_without_triton():
    # the best of three: other work on the machine only ever adds time
    for _ in range(3):
        seconds, error = import_in_a_fresh_process(REPOSITORY, "litespark.ops", blocked=TRITON)
        assert not error, error
        if seconds < MOST_SECONDS_BEYOND_TORCH:
            return
    pytest.fail(f"import litespark.ops takes {seconds:.1f} s beyond torch, allowed are {MOST_SECONDS_BEYOND_TORCH} s")


@pytest.mark.skipif(not (REPOSITORY / "src/litespark/planning").is_dir(), reason="there is no planning room yet")
def test_planning_imports_without_lightning_even_indirectly():
    _, error = import_in_a_fresh_process(REPOSITORY, "litespark.planning", blocked=LIGHTNING)
    assert not error, error


# The same checkers on trees with one planted fault each.

SOUND_HOUSE = {
    "train.py": "import hydra\nfrom litespark.experiment import run\n",
    "src/litespark/__init__.py": "",
    "src/litespark/cli.py": "import hydra\n\ndef report():\n    from litespark.analysis.report import write_report\n",
    "src/litespark/experiment/__init__.py": "import omegaconf\nfrom litespark.experiment.build import run\n",
    "src/litespark/experiment/build.py": "import lightning\nfrom litespark import data, ops\nfrom . import check\n",
    "src/litespark/experiment/check.py": "import litespark.callbacks.mfu\n",
    "src/litespark/analysis/report.py": "from litespark import __version__\nfrom litespark.metrics import record\n",
    "src/litespark/callbacks/mfu.py": "import lightning\nfrom litespark.data.batch import TokenBatch\n",
    "src/litespark/data/__init__.py": "",
    "src/litespark/data/batch.py": "import torch\n",
    "src/litespark/data/streaming.py": "from lightning import LightningDataModule\nfrom litespark.data import batch\n",
    "src/litespark/metrics/__init__.py": "import torchmetrics\n",
    "src/litespark/metrics/record.py": "import json\n",
    "src/litespark/ops/rms_norm/kernels.py": "import triton\nfrom litespark.ops import triton_support\n",
    "src/litespark/ops/triton_support.py": "import triton\n",
    "src/litespark/planning/plan.py": "from litespark.training.optim import build\n",
    "src/litespark/training/__init__.py": "",
    "src/litespark/training/module.py": "import lightning.pytorch as pl\nfrom litespark.data import batch\n",
    "src/litespark/training/optim.py": "import torch\n",
}
PLANTED_ROOM_FAULTS = {
    "absolute import": ("models/llama.py", "import litespark.data.batch\n", "may import only ops"),
    "from the package": ("ops/backend.py", "from litespark import models\n", "may import only nothing of ours"),
    "relative import": ("data/streaming.py", "from ..models import llama\n", "imports litespark.models"),
    "relative import in a package file": (
        "data/__init__.py",
        "from ..metrics.record import RunRecord\n",
        "metrics.record",
    ),
    "inside a function": (
        "analysis/runs.py",
        "def load():\n    from litespark.training import optim\n",
        "training.optim",
    ),
    "under TYPE_CHECKING": (
        "metrics/energy.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from litespark.ops import Ops\n",
        "imports litespark.ops",
    ),
    "through importlib": (
        "tasks/sft.py",
        "import importlib\nimportlib.import_module('litespark.analysis')\n",
        "analysis",
    ),
    "a neighbour of the one allowed module": (
        "callbacks/energy.py",
        "from litespark.data import streaming\n",
        "streaming",
    ),
    "a package where one module is allowed": (
        "training/module.py",
        "from litespark.data import TokenBatch\n",
        "litespark.data,",
    ),
    "planning on training": ("planning/time.py", "from litespark.training.module import Module\n", "training.module"),
    "experiment on benchmarks": ("experiment/build.py", "import litespark.benchmarks.ops\n", "benchmarks.ops"),
    "experiment on cli": ("experiment.py", "from . import cli\n", "imports litespark.cli"),
    "cli on a room at its top": ("cli.py", "from litespark.analysis import report\n", "outside a command"),
    "cli in a class body": ("cli.py", "class Command:\n    import litespark.models.llama\n", "outside a command"),
    "cli on ops": ("cli.py", "def bench():\n    import litespark.ops\n", "cli may import only"),
    "the root package on a room": (
        "__init__.py",
        "from litespark.ops import resolve\n",
        "litespark may import only nothing",
    ),
    "train.py on models": (
        "../../train.py",
        "from litespark.models import llama\n",
        "train may import only experiment",
    ),
    "a room nobody knows": ("plugins/extra.py", "import json\n", "room 'plugins' is not in the table"),
}
PLANTED_LIBRARY_FAULTS = {
    "lightning in models": ("models/llama.py", "import lightning\n", "litespark.models.llama may not import lightning"),
    "lightning in optim": ("training/optim.py", "from lightning.pytorch import Trainer\n", "may not import lightning"),
    "old lightning": (
        "metrics/names.py",
        "def f():\n    import pytorch_lightning\n",
        "may not import pytorch_lightning",
    ),
    "lightning in prepare": ("data/prepare.py", "import lightning.fabric\n", "data.prepare may not import lightning"),
    "lightning in train.py": ("../../train.py", "import lightning\n", "train may not import lightning"),
    "hydra in training": ("training/module.py", "from hydra.utils import instantiate\n", "may not import hydra"),
    "omegaconf in analysis": ("analysis/runs.py", "from omegaconf import OmegaConf\n", "may not import omegaconf"),
    "triton in a function file": ("ops/swiglu/function.py", "import triton\n", "may not import triton"),
    "triton in models": ("models/kernels.py", "import triton.language as tl\n", "may not import triton"),
}
PLANTED_SHAPE_FAULTS = {
    "a long file": ("models/llama.py", "\n" * (MOST_LINES_IN_A_FILE + 1), "has 401 lines"),
    "a long train.py": ("../../train.py", "\n" * (MOST_LINES_IN_TRAIN + 1), "has 40 lines"),
    "utils": ("data/utils.py", "", "named utils"),
    "helpers as a folder": ("helpers/tokens.py", "", "named helpers"),
}


@pytest.fixture
def sound_house(tmp_path: Path) -> Path:
    for name, source in SOUND_HOUSE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def plant(root: Path, name: str, source: str) -> None:
    path = (root / "src" / "litespark" / name).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


def test_a_sound_house_gives_no_complaint(sound_house):
    assert forbidden_room_imports(sound_house) + misplaced_libraries(sound_house) + unshapely_files(sound_house) == []


@pytest.mark.parametrize("name, source, complaint", PLANTED_ROOM_FAULTS.values(), ids=PLANTED_ROOM_FAULTS.keys())
def test_a_planted_room_import_is_caught(sound_house, name, source, complaint):
    plant(sound_house, name, source)
    assert [found for found in forbidden_room_imports(sound_house) if complaint in found]


@pytest.mark.parametrize("name, source, complaint", PLANTED_LIBRARY_FAULTS.values(), ids=PLANTED_LIBRARY_FAULTS.keys())
def test_a_planted_library_import_is_caught(sound_house, name, source, complaint):
    plant(sound_house, name, source)
    assert [found for found in misplaced_libraries(sound_house) if complaint in found]


@pytest.mark.parametrize("name, source, complaint", PLANTED_SHAPE_FAULTS.values(), ids=PLANTED_SHAPE_FAULTS.keys())
def test_a_planted_shape_fault_is_caught(sound_house, name, source, complaint):
    plant(sound_house, name, source)
    assert [found for found in unshapely_files(sound_house) if complaint in found]


def test_a_missing_train_file_is_caught(sound_house):
    (sound_house / "train.py").unlink()
    assert unshapely_files(sound_house) == [f"{sound_house / 'train.py'} is missing"]


@pytest.mark.parametrize(
    "name, blocked, source",
    [
        ("litespark.ops", TRITON, "import triton\n"),
        ("litespark.planning", LIGHTNING, "import litespark.training.module\n"),
    ],
    ids=["triton below ops", "lightning below planning"],
)
def test_a_planted_library_behind_an_import_is_caught(sound_house, name, blocked, source):
    plant(sound_house, f"{name.removeprefix('litespark.')}/__init__.py", source)
    seconds, error = import_in_a_fresh_process(sound_house, name, blocked=blocked)
    assert seconds == float("inf")
    assert "ModuleNotFoundError" in error


def test_a_planted_slow_import_is_seen(sound_house):
    plant(sound_house, "ops/__init__.py", f"import time\ntime.sleep({MOST_SECONDS_BEYOND_TORCH})\n")
    seconds, error = import_in_a_fresh_process(sound_house, "litespark.ops", blocked=TRITON)
    assert not error
    assert MOST_SECONDS_BEYOND_TORCH <= seconds < float("inf")
