"""Every kernel compiles for every target, without a GPU, fits its memory, and keeps below its ceilings.

`make test` compiles the first configuration of each kernel for sm_90, and for gfx942 but for attention, which takes
longest there; `make test-slow` all of them for every target. Ceilings are those of `tests.ops.ceilings`. Planted
faults are caught.
"""

from dataclasses import replace
from pathlib import Path

import pytest

import litespark.ops
from litespark.ops.compilation import Attempt, ops_with_kernels
from litespark.ops.triton_support import TARGETS
from tests.ops.ceilings import (
    ASYNCHRONOUS,
    CEILINGS,
    CEILINGS_ELSEWHERE,
    LOCAL_IN_LOOPS_ALLOWED,
    NARROW,
    PRODUCTS,
    STACK_BYTES_ALLOWED,
    WIDEST,
)
from tests.ops.compile_worker import compile_all, compile_in_worker

pytest.importorskip("triton")

OPS = ops_with_kernels()
WITH_FP8 = {"sm_89", "sm_90", "sm_100", "sm_120"}
# op -> the targets that its kernels are for, where these are not all
ONLY_FOR = {"fp8": WITH_FP8, "swiglu_fp8": WITH_FP8}
SOUND, FAULTY, ENDING, CASTING, CHOOSY = (
    f"tests.ops.toy_kernels.{name}" for name in ("sound", "faulty", "ending", "casting", "choosy")
)
# of CHOOSY, whose kernels are not for the first of them
CHOSEN_FOR = ["sm_86", "sm_89"]


def complaints(attempts: list[Attempt], stack_bytes_allowed: dict[str, int]) -> list[str]:
    found = [misfit for made in attempts if (misfit := made.misfit())]
    for made in attempts:
        allowed = stack_bytes_allowed.get(made.name, 0)
        if made.target == "sm_90" and made.resources and (made.resources.stack_bytes or 0) > allowed:
            stack = made.resources.stack_bytes
            found.append(f"{made.name} has {stack} bytes of stack on {made.target}, allowed are {allowed}")
    return found


def code_complaints(attempts: list[Attempt]) -> list[str]:
    """What is wrong with the machine code of usual configurations on the targets that are looked at closely."""
    found = []
    for made in attempts:
        if made.target not in PRODUCTS or made.code is None or made.resources is None:
            continue
        name, code = made.kernel, made.code
        for what, moved in (("loads", code.loads), ("stores", code.stores)):
            narrow = moved.narrow_bytes / max(1, moved.narrow_bytes + moved.wide_bytes)
            if narrow > NARROW.get(name, 1 / 8):
                found.append(f"{name} moves {narrow:.0%} of its bytes in {what} of less than 16 bytes")
        if code.local_in_loops:
            found.append(f"{name} uses local memory in a loop")
        if name.startswith("attention") and not code.products.get(PRODUCTS[made.target]):
            found.append(f"{name} multiplies without {PRODUCTS[made.target]}")
        if name in ASYNCHRONOUS and not code.asynchronous:
            found.append(f"{name} loads nothing past the registers")
        figures = made.resources.registers, made.instructions_a_value, code.barriers
        ceilings = CEILINGS_ELSEWHERE.get((name, made.target), CEILINGS.get(name, (255, None, 255)))
        for what, figure, ceiling in zip(
            ("registers", "instructions a value", "barriers a loop"), figures, ceilings, strict=True
        ):
            if figure is not None and ceiling is not None and figure > ceiling:
                found.append(f"{name} has {figure:.3g} {what}, more than {ceiling}")
    return found


def loop_complaints(attempts: list[Attempt]) -> list[str]:
    """Which of all configurations use more local memory in loops than they may."""
    return [
        f"{made.name} uses local memory {made.code.local_in_loops} times in loops on {made.target}"
        for made in attempts
        if made.target in PRODUCTS and made.code is not None and WIDEST not in made.name
        if made.code.local_in_loops > LOCAL_IN_LOOPS_ALLOWED.get((made.name, made.target), 0)
    ]


def test_the_most_usual_configuration_of_each_kernel_fits_the_targets_that_differ_most(tmp_path):
    others = [module for op, module in OPS.items() if op != "attention"]
    attempts = compile_all(tmp_path, [(list(OPS.values()), ["sm_90"], False), (others, ["gfx942"], False)])
    kernels = {target: {made.kernel for made in attempts if made.target == target} for target in ("sm_90", "gfx942")}
    assert kernels["sm_90"] > kernels["gfx942"] > set()
    assert complaints(attempts, STACK_BYTES_ALLOWED) == []
    assert kernels["sm_90"] >= CEILINGS.keys()
    assert code_complaints(attempts) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", OPS)
def test_all_configurations_fit_every_target(op, target, tmp_path):
    attempts = compile_in_worker(tmp_path, [OPS[op]], [target], every=True)
    assert bool(attempts) is (target in ONLY_FOR.get(op, set(TARGETS)))
    assert complaints(attempts, STACK_BYTES_ALLOWED) == []
    usual = {made.kernel: made for made in reversed(attempts)}
    assert code_complaints(list(usual.values())) == []
    assert loop_complaints(attempts) == []


# ---------------------------------------------------------------- kernels whose needs are known


@pytest.fixture(scope="module")
def attempts(tmp_path_factory) -> list[Attempt]:
    nvidia = [name for name, target in TARGETS.items() if target.backend == "cuda"]
    jobs = [([SOUND, FAULTY], ["sm_90"], True), ([SOUND], ["gfx942"], True), ([CASTING], nvidia, True)]
    return compile_all(tmp_path_factory.mktemp("toys"), [*jobs, ([CHOOSY], CHOSEN_FOR, False)])


@pytest.fixture(scope="module")
def toys(attempts) -> dict[tuple[str, str], Attempt]:
    return {(made.name, made.target): made for made in attempts}


@pytest.mark.parametrize("target, stages", [("sm_90", 2), ("gfx942", 1)])
def test_what_kernels_of_known_needs_take(toys, target, stages):
    """Of a matmul stages that hold a block: on AMD one less than were asked for, since a block waits in registers."""
    copy = toys["copy bf16", target].resources
    assert 0 < copy.registers <= 32
    assert copy.stack_bytes == copy.shared_bytes == 0
    needs = toys["matmul bf16", target].resources
    assert needs.shared_bytes == stages * (128 * 32 + 32 * 128) * 2
    assert needs.stack_bytes == 0
    assert needs.registers > 128 * 128 / (4 * TARGETS[target].warp_size)  # of the sum alone
    # nothing that is unaligned can run ahead through shared memory, which then holds one stage
    aligned, unaligned = (toys[f"matmul {name}", "sm_90"].resources.shared_bytes for name in ("bf16", "unaligned"))
    assert unaligned < aligned


# ---------------------------------------------------------------- planted faults


def test_a_kernel_that_does_not_compile_or_is_beyond_the_shared_memory_is_caught(toys):
    (complaint,) = complaints([toys["wrong", "sm_90"]], {})
    assert "wrong does not compile for sm_90: CompilationError" in complaint
    (complaint,) = complaints([toys["matmul large", "sm_90"]], {"matmul large": 10_000})
    needed, limit = toys["matmul large", "sm_90"].resources.shared_bytes, TARGETS["sm_90"].shared_bytes
    assert complaint == f"matmul large takes {needed} bytes of shared memory on sm_90, which has {limit}"


def test_spilled_registers_on_sm_90_are_caught_beyond_what_is_allowed(toys):
    made = toys["matmul spilling", "sm_90"]
    stack = made.resources.stack_bytes
    assert complaints([made], {}) == [f"matmul spilling has {stack} bytes of stack on sm_90, allowed are 0"]
    assert complaints([made], {"matmul spilling": stack - 1})
    assert complaints([made], {"matmul spilling": stack}) == []


def test_machine_code_that_grows_or_lacks_what_it_should_have_is_caught(toys):
    sound = toys["matmul bf16", "sm_90"]
    assert code_complaints([sound]) == []
    assert sound.code.products.keys() == {"HGMMA"}
    assert sound.code.loops == 1
    unaligned = replace(toys["matmul unaligned", "sm_90"], kernel="attention_forward_kernel")
    assert "attention_forward_kernel moves 100% of its bytes in loads of less than 16 bytes" in code_complaints(
        [unaligned]
    )
    code = replace(sound.code, local_in_loops=1, products={"HMMA": 8}, asynchronous=0, loops=0, barriers=3)
    grown = replace(
        sound, kernel="attention_forward_kernel", code=code, resources=replace(sound.resources, registers=256)
    )
    assert code_complaints([grown]) == [
        "attention_forward_kernel uses local memory in a loop",
        "attention_forward_kernel multiplies without HGMMA",
        "attention_forward_kernel loads nothing past the registers",
        "attention_forward_kernel has 256 registers, more than 255",
        "attention_forward_kernel has 3 barriers a loop, more than 2",
    ]
    elsewhere = replace(grown, target="sm_100", resources=sound.resources, code=replace(code, local_in_loops=0))
    assert "attention_forward_kernel multiplies without UTCHMMA" in code_complaints([elsewhere])
    assert "attention_forward_kernel has 3 barriers a loop, more than 0" in code_complaints([elsewhere])
    assert loop_complaints([sound, grown]) == ["matmul bf16 uses local memory 1 times in loops on sm_90"]
    many = replace(toys["copy bf16", "sm_90"], kernel="cast_kernel")
    many = replace(many, values=many.code.instructions / 20)
    assert code_complaints([many]) == ["cast_kernel has 20 instructions a value, more than 12.5"]


def test_a_compiler_that_ends_the_process_is_caught_by_name(tmp_path):
    with pytest.raises(AssertionError, match="at: the_last_words bf16 for sm_90"):
        compile_in_worker(tmp_path, [ENDING], ["sm_90"], every=True)


def test_a_kernel_that_is_not_launched_is_caught(tmp_path):
    with pytest.raises(AssertionError, match=r"launches\(sm_90\): got no launch of forgotten, expected one of each"):
        compile_in_worker(tmp_path, ["tests.ops.toy_kernels.forgetful"], ["sm_90"], every=True)


def test_the_first_configuration_of_each_kernel_is_chosen_for_the_targets_that_it_is_for(attempts):
    chosen = [made for made in attempts if made.target in CHOSEN_FOR and made.kernel != "cast_to_fp8"]
    assert [(made.name, made.target) for made in chosen] == [("copy bf16", "sm_89"), ("matmul bf16", "sm_89")]


def test_the_targets_with_fp8_are_those_that_triton_makes_it_for(attempts):
    """By the compiler, for NVIDIA's; for AMD's it puts e4m3 together from other operations."""
    casts = [made for made in attempts if made.kernel == "cast_to_fp8"]
    assert {made.target for made in casts if made.misfit() is None} == WITH_FP8
    assert {name for name, target in TARGETS.items() if target.without_fp8 is None} == WITH_FP8


def test_ops_that_have_kernels_are_found_without_importing_them():
    folder = Path(litespark.ops.__file__).parent
    with_kernels = {path.parent.name for path in folder.glob("*/kernels.py")}
    assert set(OPS) == with_kernels - {"rounding"}  # which is not an op, but what kernels of ops share
