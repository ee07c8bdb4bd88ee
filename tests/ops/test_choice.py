"""Which backend runs: by name or not at all; by `auto` the fastest that can run and is right, remembered and agreed."""

import json
import logging
from dataclasses import replace

import pytest
import torch

from litespark.ops import choice, measuring
from litespark.ops.backend import AUTO, BACKENDS, REFERENCE, Backend, OpsConfig
from litespark.ops.choice import Choice, FailedVerificationError, decide, described, in_short, refusals
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.tolerance import Difference
from litespark.ops.verification import Verification

SHAPES = StepShapes(
    rows=1, length=12, hidden_size=16, num_heads=2, num_kv_heads=1, head_dim=8, intermediate_size=24, vocab_size=31
)
CPU = Place(torch.device("cpu"), torch.float32, SHAPES)
# where `auto` measures; nothing in these tests touches the device, since measuring is replaced
GPU = replace(CPU, device=torch.device("cuda", 0))


def _swiglu(monkeypatch, **backends: Backend) -> None:
    monkeypatch.setitem(BACKENDS, "swiglu", {**backends, REFERENCE: BACKENDS["swiglu"][REFERENCE]})


RIGHT = Backend("tests.ops.planted:right")
WRONG = Backend("tests.ops.planted:wrong_gradient")
ELSEWHERE = Backend("tests.ops.planted:right", "tests.ops.planted:why_not_here")


def _of(choices: list[Choice], op: str) -> Choice:
    return next(each for each in choices if each.op == op)


# ---------------------------------------------------------------- by name


def test_a_backend_asked_for_by_name_that_cannot_run_is_an_error(monkeypatch):
    _swiglu(monkeypatch, far=ELSEWHERE, right=RIGHT)
    config = OpsConfig(swiglu="far")
    expected = r"ops.swiglu: got far, which cannot run here: it needs a device of another world; expected .*right, ref"
    with pytest.raises(ValueError, match=expected):
        decide(config, CPU, verifying=False)
    assert len(refusals(config, CPU)) == 1
    assert refusals(config, CPU, frozenset({"swiglu"})) == []


def test_triton_by_name_without_a_gpu_is_an_error(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match=r"ops.swiglu: got triton, .*no kernels for CPUs"):
        decide(OpsConfig(swiglu="triton"), CPU, verifying=False)


def test_what_is_asked_for_by_name_is_verified_and_kept(monkeypatch):
    _swiglu(monkeypatch, right=RIGHT)
    ops, choices = decide(OpsConfig(swiglu="right"), CPU, verifying=True)
    assert _of(choices, "swiglu").used == "right"
    assert [verification.passed for verification in _of(choices, "swiglu").verifications] == [True]
    assert ops.swiglu.__module__ == "litespark.ops.swiglu.reference"
    assert _of(choices, "rope").verifications == ()  # a reference is its own verification


def test_a_failed_verification_stops_the_run_with_op_and_tensor(monkeypatch):
    _swiglu(monkeypatch, wrong=WRONG)
    with pytest.raises(FailedVerificationError, match=r"(?s)ops.swiglu: got wrong.*fallback.*gradient of gate_up"):
        decide(OpsConfig(swiglu="wrong"), CPU, verifying=True)


def test_a_failed_verification_falls_back_where_that_is_asked_for_with_one_loud_line(monkeypatch, caplog):
    _swiglu(monkeypatch, wrong=WRONG)
    _, choices = decide(OpsConfig(swiglu="wrong", on_failed_verification="fallback"), CPU, verifying=True)
    assert _of(choices, "swiglu").used == REFERENCE
    assert _of(choices, "swiglu").asked == "wrong"
    loud = [line for line in caplog.records if line.levelno >= logging.ERROR]
    assert len(loud) == 1
    assert "VERIFICATION FAILED: ops.swiglu=wrong is replaced by its reference" in loud[0].message


def test_without_verifying_nothing_is_run(monkeypatch):
    _swiglu(monkeypatch, wrong=WRONG)
    _, choices = decide(OpsConfig(swiglu="wrong"), CPU, verifying=False)
    assert _of(choices, "swiglu").used == "wrong"


# ---------------------------------------------------------------- auto without a GPU


def test_auto_on_a_cpu_takes_the_first_that_can_run_and_says_why_not_others(monkeypatch):
    _swiglu(monkeypatch, far=ELSEWHERE, right=RIGHT)
    _, choices = decide(OpsConfig(swiglu=AUTO), CPU, verifying=False)
    assert _of(choices, "swiglu").used == "right"
    line = described(choices)
    assert "swiglu right" in line
    assert "not far: it needs a device of another world" in line
    assert "\n" not in line
    assert in_short(choices).endswith("right swiglu")  # the reasons are in the report
    assert in_short([Choice("rope", AUTO, "reference")]) == "ops: all reference"


def test_auto_never_takes_interpreted_kernels(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    _, choices = decide(OpsConfig(**dict.fromkeys(BACKENDS, AUTO)), CPU, verifying=False)
    assert not any(each.used.startswith("triton") for each in choices)


def test_auto_without_triton_takes_something_else(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "triton", None)
    _, choices = decide(OpsConfig(**dict.fromkeys(BACKENDS, AUTO)), CPU, verifying=False)
    assert not any(each.used.startswith("triton") for each in choices)
    assert "Triton is not installed" in described(choices)


@pytest.mark.parametrize("on_failed_verification", ["stop", "fallback"])
def test_auto_goes_on_to_the_next_where_a_verification_fails(monkeypatch, caplog, on_failed_verification):
    _swiglu(monkeypatch, wrong=WRONG, right=RIGHT)
    config = OpsConfig(swiglu=AUTO, on_failed_verification=on_failed_verification)
    ops, choices = decide(config, CPU, verifying=True)
    found = _of(choices, "swiglu")
    assert found.used == "right"
    assert ops.swiglu.__module__ == "litespark.ops.swiglu.reference"
    assert found.reasons == ("not wrong for swiglu: its verification failed",)
    assert [(verification.backend, verification.passed) for verification in found.verifications] == [
        ("wrong", False),
        ("right", True),
    ]
    assert caplog.text.count("VERIFICATION FAILED: auto does not take ops.swiglu=wrong") == 1


def test_auto_takes_the_reference_where_nothing_else_is_right(monkeypatch):
    _swiglu(monkeypatch, wrong=WRONG, raising=Backend("tests.ops.planted:raising"))
    _, choices = decide(OpsConfig(swiglu=AUTO), CPU, verifying=True)
    assert _of(choices, "swiglu").used == REFERENCE
    assert len(_of(choices, "swiglu").reasons) == 2


# ---------------------------------------------------------------- auto with measurements


@pytest.fixture
def times(monkeypatch):
    """Milliseconds by backend, in place of a GPU's; verifications run on the CPU."""
    found: dict[str, float] = {"right": 2.0, "quick": 1.0, "wrong": 0.1, REFERENCE: 3.0}
    measured: list[list[str]] = []

    def measure(op, backends, place):
        measured.append(backends)
        return {name: found[name] for name in backends}

    original = choice.verify
    monkeypatch.setattr(choice, "measure", measure)
    monkeypatch.setattr(
        choice,
        "verify",
        lambda op, name, shapes, device, dtype, **settings: original(op, name, shapes, CPU.device, dtype),
    )
    monkeypatch.setattr(choice, "verify_products", lambda *arguments: [])
    monkeypatch.setattr(measuring.torch.cuda, "get_device_name", lambda device: "a GPU")
    found["calls"] = measured  # type: ignore[assignment]
    return found


def test_auto_takes_the_fastest_that_is_right(monkeypatch, times):
    _swiglu(monkeypatch, wrong=WRONG, right=RIGHT, quick=RIGHT)
    _, choices = decide(OpsConfig(swiglu=AUTO), GPU, verifying=True)
    found = _of(choices, "swiglu")
    assert found.used == "quick"
    assert found.milliseconds == {"right": 2.0, "quick": 1.0, REFERENCE: 3.0}
    assert "not wrong for swiglu: its verification failed" in found.reasons
    assert [verification.passed for verification in found.verifications] == [False, True]


def test_a_fused_kernel_that_is_slower_than_pytorch_is_not_used(monkeypatch, times):
    _swiglu(monkeypatch, right=RIGHT)
    times[REFERENCE] = 1.5
    _, choices = decide(OpsConfig(swiglu=AUTO), GPU, verifying=True)
    assert _of(choices, "swiglu").used == REFERENCE


OTHER_PLACES = [
    {"dtype": torch.bfloat16},
    {"autocast": True},
    *({"shapes": replace(SHAPES, **{size: getattr(SHAPES, size) + 1})} for size in ("rows", "length", "hidden_size")),
    {"shapes": replace(SHAPES, documents=True)},
]
OTHER_PROGRAMS = {
    "device": (measuring.torch.cuda, "get_device_name"),
    "torch": (measuring.torch, "__version__"),
    "cudnn": (measuring.torch.backends.cudnn, "version"),
    "triton": (measuring, "_triton_version"),
    "source": (measuring, "source_hash"),
}


@pytest.mark.parametrize("other", [{}, *OTHER_PLACES, *OTHER_PROGRAMS], ids=str)
def test_what_was_measured_is_taken_on_the_same_device_with_the_same_programs_and_sizes_only(
    monkeypatch, times, tmp_path, other
):
    _swiglu(monkeypatch, right=RIGHT, quick=RIGHT)
    cache, calls = tmp_path / "folder" / "ops.json", 1 if other == {} else 2
    decide(OpsConfig(swiglu=AUTO), GPU, verifying=False, cache=cache)
    if isinstance(other, str):
        monkeypatch.setattr(*OTHER_PROGRAMS[other], "0.1" if other == "torch" else lambda *device: "another")
    place = GPU if isinstance(other, str) else replace(GPU, **other)
    _, choices = decide(OpsConfig(swiglu=AUTO), place, verifying=False, cache=cache)
    assert _of(choices, "swiglu").used == "quick"
    assert len(times["calls"]) == len(json.loads(cache.read_text())) == calls


def test_what_was_measured_with_other_algorithms_is_not_taken(monkeypatch, times, tmp_path):
    _swiglu(monkeypatch, right=RIGHT, quick=RIGHT)
    try:
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic)
            decide(OpsConfig(swiglu=AUTO), GPU, verifying=False, cache=tmp_path / "ops.json")
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(times["calls"]) == 2


def test_what_is_remembered_and_no_longer_right_is_neither_taken_nor_kept(monkeypatch, times, tmp_path):
    cache = tmp_path / "ops.json"
    _swiglu(monkeypatch, right=RIGHT, quick=RIGHT)
    decide(OpsConfig(swiglu=AUTO), GPU, verifying=True, cache=cache)
    _swiglu(monkeypatch, right=RIGHT, quick=WRONG)
    for verifying in (True, False):  # the second start does not fall for the memory either
        _, choices = decide(OpsConfig(swiglu=AUTO), GPU, verifying=verifying, cache=cache)
        found = _of(choices, "swiglu")
        assert found.used == "right"
        assert "not quick for swiglu: its verification failed" in found.reasons
    assert json.loads(cache.read_text()) == {}


def test_a_backend_that_fails_at_the_sizes_of_the_run_is_no_candidate(monkeypatch, caplog):
    _swiglu(monkeypatch, right=RIGHT, large=Backend("tests.ops.planted:too_large"))
    place = replace(CPU, shapes=replace(SHAPES, length=40))
    assert measuring.measure("swiglu", ["large", "right"], place).keys() == {"right"}
    assert "at these sizes it raised OutOfMemoryError: CUDA out of memory." in caplog.text
    assert measuring.measure("swiglu", ["large"], place) == {}


def test_a_backend_that_could_not_run_is_named_also_from_memory(monkeypatch, times, tmp_path):
    _swiglu(monkeypatch, right=RIGHT, quick=RIGHT)
    monkeypatch.setattr(choice, "measure", lambda op, backends, place: {"right": 1.0, REFERENCE: 2.0})
    for _ in range(2):
        _, choices = decide(OpsConfig(swiglu=AUTO), GPU, verifying=False, cache=tmp_path / "ops.json")
        assert _of(choices, "swiglu").reasons == ("not quick for swiglu: it could not run at the sizes of this run",)


ENTRIES = ({}, [], {"right": 0.0}, {"right": float("nan")}, {"right": "1"}, {"gone": 0.5, "right": 2.0},
           {"far": 0.1, "right": 2.0})  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "", *ENTRIES], ids=str)
def test_a_memory_that_no_measurement_writes_is_measured_again(monkeypatch, times, tmp_path, text):
    _swiglu(monkeypatch, right=RIGHT, far=ELSEWHERE)
    cache = tmp_path / "ops.json"
    decide(OpsConfig(swiglu=AUTO), GPU, verifying=False, cache=cache)
    written = json.loads(cache.read_text())
    cache.write_text(text if isinstance(text, str) else json.dumps(dict.fromkeys(written, text)))
    _, choices = decide(OpsConfig(swiglu=AUTO), GPU, verifying=False, cache=cache)
    assert _of(choices, "swiglu").used == "right"
    assert len(times["calls"]) == 2
    assert json.loads(cache.read_text())


def test_a_memory_that_cannot_be_written_is_a_warning(monkeypatch, times, tmp_path, caplog):
    _swiglu(monkeypatch, right=RIGHT)
    (tmp_path / "file").write_text("")
    decide(OpsConfig(swiglu=AUTO), GPU, verifying=False, cache=tmp_path / "file" / "ops.json")
    assert "is not kept" in caplog.text


def test_all_ranks_take_what_the_first_one_measured(monkeypatch, times):
    _swiglu(monkeypatch, right=RIGHT, quick=RIGHT)

    class SecondRank:
        def from_first(self, make, doing):
            return Choice("swiglu", AUTO, "right")

        def all(self, value):
            return value

    _, choices = decide(OpsConfig(swiglu=AUTO), GPU, verifying=True, ranks=SecondRank())
    assert _of(choices, "swiglu").used == "right"
    assert not times["calls"]


def test_a_verification_that_fails_on_another_rank_stops_all(monkeypatch):
    _swiglu(monkeypatch, right=RIGHT)

    class Unlucky(choice.OneRank):
        def all(self, value):
            return False

    with pytest.raises(FailedVerificationError, match="failed on another rank"):
        decide(OpsConfig(swiglu="right"), CPU, verifying=True, ranks=Unlucky())


def test_auto_goes_on_on_all_ranks_where_a_verification_fails_on_another(monkeypatch):
    _swiglu(monkeypatch, quick=RIGHT, right=RIGHT)
    answers = iter([False, True, True])  # the last is of the products of fp8

    class Unlucky(choice.OneRank):
        def all(self, value):
            return next(answers)

    _, choices = decide(OpsConfig(swiglu=AUTO), CPU, verifying=True, ranks=Unlucky())
    assert _of(choices, "swiglu").used == "right"
    assert _of(choices, "swiglu").reasons == ("not quick for swiglu: its verification failed",)


def _products(distance: float) -> list[Verification]:
    found = (Difference("output", distance, 0.02),)
    return [Verification("fp8", "units", "products", "16 x 16 x 16", "bf16", False, 0.1, found)]


def test_products_of_fp8_are_verified_where_a_run_computes_with_them(monkeypatch):
    monkeypatch.setattr(choice, "verify_products", lambda *arguments: _products(0.01))
    _, choices = decide(OpsConfig(), CPU, verifying=True)
    assert [verification.backend for verification in _of(choices, "fp8").verifications] == ["units"]
    _, choices = decide(OpsConfig(), CPU, verifying=False)
    assert _of(choices, "fp8").verifications == ()
    _, choices = decide(OpsConfig(), CPU, verifying=True, idle=frozenset({"fp8"}))
    assert "fp8" not in {each.op for each in choices}


@pytest.mark.parametrize("on_failed_verification", ["stop", "fallback"])
def test_wrong_products_of_fp8_stop_the_run_whatever_is_asked_for(monkeypatch, on_failed_verification):
    monkeypatch.setattr(choice, "verify_products", lambda *arguments: _products(0.5))
    with pytest.raises(
        FailedVerificationError, match=r"(?s)precision=fp8: got products .*Set precision=bf16.*output is 5.0e-01"
    ):
        decide(OpsConfig(fp8=AUTO, on_failed_verification=on_failed_verification), CPU, verifying=True)


def test_products_of_fp8_that_are_wrong_on_another_rank_stop_all(monkeypatch):
    monkeypatch.setattr(choice, "verify_products", lambda *arguments: _products(0.01))

    class Unlucky(choice.OneRank):
        def all(self, value):
            return False

    with pytest.raises(FailedVerificationError, match=r"precision=fp8: .*\nit failed on another rank"):
        decide(OpsConfig(), CPU, verifying=True, ranks=Unlucky())


def test_the_pieces_of_fp8_are_not_measured(monkeypatch, times):
    """The first that can run and is right, on a GPU too."""
    pieces = {REFERENCE: BACKENDS["fp8"][REFERENCE]}
    monkeypatch.setitem(BACKENDS, "fp8", {"right": BACKENDS["fp8"][REFERENCE], **pieces})
    _, choices = decide(OpsConfig(fp8=AUTO), GPU, verifying=True)
    found = _of(choices, "fp8")
    assert found.used == "right"
    assert found.verifications
    assert all(verification.passed for verification in found.verifications)
    assert not times["calls"]


def test_no_verification_is_not_a_passed_one(monkeypatch):
    _swiglu(monkeypatch, right=RIGHT)
    monkeypatch.setattr(choice, "verify", lambda *arguments, **settings: [])
    with pytest.raises(FailedVerificationError):
        decide(OpsConfig(swiglu="right"), CPU, verifying=True)


# ---------------------------------------------------------------- after a resume


def test_a_resumed_run_stays_with_what_it_used(monkeypatch, times):
    _swiglu(monkeypatch, right=RIGHT, quick=RIGHT)
    _, choices = decide(OpsConfig(swiglu=AUTO), GPU, verifying=True, before={"swiglu": "right"})
    assert _of(choices, "swiglu").used == "right"
    assert not times["calls"]
    assert [verification.backend for verification in _of(choices, "swiglu").verifications] == ["right"]


def test_a_resume_where_that_cannot_run_or_is_wrong_chooses_anew(monkeypatch, times):
    _swiglu(monkeypatch, far=ELSEWHERE, wrong=WRONG, right=RIGHT)
    for used in ("far", "wrong", "no backend any more"):
        _, choices = decide(OpsConfig(swiglu=AUTO), GPU, verifying=True, before={"swiglu": used})
        assert _of(choices, "swiglu").used == "right"


def test_a_resume_that_names_a_backend_gets_it(monkeypatch):
    _swiglu(monkeypatch, right=RIGHT)
    _, choices = decide(OpsConfig(swiglu="right"), CPU, verifying=False, before={"swiglu": REFERENCE})
    assert _of(choices, "swiglu").used == "right"
