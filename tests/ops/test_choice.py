"""Which backend runs: by name or not at all; by `auto` the fastest that can run and is right, remembered and agreed."""

import json
import logging
from dataclasses import replace

import pytest
import torch

from litespark.mesh import Mesh
from litespark.ops import choice, measuring
from litespark.ops.backend import AUTO, BACKENDS, REFERENCE, Backend, OpsConfig
from litespark.ops.choice import Choice, FailedVerificationError, described, refusals
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.tolerance import Difference
from litespark.ops.verification import Verification

SHAPES = StepShapes(
    sequences=1, length=12, hidden_size=16, num_heads=2, num_kv_heads=1, head_dim=8, intermediate_size=24, vocab_size=31
)
CPU = Place(torch.device("cpu"), torch.float32, SHAPES)
# where `auto` measures; nothing in these tests touches the device, since measuring is replaced
GPU = replace(CPU, device=torch.device("cuda", 0))
RIGHT = Backend("tests.ops.planted:right")
WRONG = Backend("tests.ops.planted:wrong_gradient")
ELSEWHERE = Backend("tests.ops.planted:right", "tests.ops.planted:why_not_here")
WATCHED = Pieces()


@pytest.fixture
def swiglu(monkeypatch):
    """Makes backends of SwiGLU the only ones beside its reference."""
    return lambda **backends: monkeypatch.setitem(
        BACKENDS, "swiglu", {**backends, REFERENCE: BACKENDS["swiglu"][REFERENCE]}
    )


def decided(asked: str, place: Place = CPU, *, ranks=None, verifying=True, on_failed_verification="stop", **options):
    """What became of SwiGLU."""
    config = OpsConfig(swiglu=asked, on_failed_verification=on_failed_verification)
    _, choices = choice.decide(config, place, ranks or Mesh(), verifying=verifying, **options)
    return next(each for each in choices if each.op == "swiglu")


# ---------------------------------------------------------------- by name


def test_a_backend_asked_for_by_name_that_cannot_run_is_an_error(swiglu, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    swiglu(far=ELSEWHERE, triton=BACKENDS["swiglu"]["triton"], right=RIGHT)
    expected = r"ops.swiglu: got far, which cannot run here: it needs a device of another world; expected .*right, ref"
    with pytest.raises(ValueError, match=expected):
        decided("far", verifying=False)
    with pytest.raises(ValueError, match=r"ops.swiglu: got triton, .*no kernels for CPUs"):
        decided("triton", verifying=False)
    assert refusals(OpsConfig(swiglu="far"), CPU, frozenset({"swiglu"})) == []


def test_what_is_asked_for_by_name_is_verified_and_kept(swiglu):
    swiglu(right=RIGHT)
    ops, choices = choice.decide(OpsConfig(swiglu="right"), CPU, Mesh(), verifying=True)
    by_op = {each.op: each for each in choices}
    assert by_op["swiglu"].used == "right"
    assert [verification.passed for verification in by_op["swiglu"].verifications] == [True]
    assert ops.swiglu.__module__ == "litespark.ops.swiglu.reference"
    assert by_op["rope"].verifications == ()  # a reference is its own verification


def test_a_failed_verification_stops_the_run_or_falls_back_with_one_loud_line(swiglu, caplog, monkeypatch):
    swiglu(wrong=WRONG)
    with pytest.raises(FailedVerificationError, match=r"(?s)ops.swiglu: got wrong.*fallback.*gradient of gate_up"):
        decided("wrong")
    found = decided("wrong", on_failed_verification="fallback")
    assert (found.asked, found.used) == ("wrong", REFERENCE)
    (loud,) = [line for line in caplog.records if line.levelno >= logging.ERROR]
    assert "VERIFICATION FAILED: ops.swiglu=wrong is replaced by its reference" in loud.message
    assert decided("wrong", verifying=False).used == "wrong"
    monkeypatch.setattr(choice, "verify", lambda *arguments: [])
    with pytest.raises(FailedVerificationError):  # no verification is not a passed one
        decided("wrong")


# ---------------------------------------------------------------- auto without a GPU


def test_auto_on_a_cpu_takes_the_first_that_can_run_and_says_why_not_others(swiglu):
    swiglu(far=ELSEWHERE, right=RIGHT)
    found = decided(AUTO, verifying=False)
    assert described([found], reasons=True) == "ops: right swiglu; not far: it needs a device of another world"
    with_kernel = replace(found, detail="math kernel")
    assert described([with_kernel], reasons=False) == "ops: right swiglu (math kernel)"
    assert described([Choice("rope", AUTO, REFERENCE)], reasons=False) == "ops: all reference"


@pytest.mark.parametrize("reason", ["Triton's interpreter is for tests", "Triton is not installed"])
def test_auto_takes_no_kernels_that_are_interpreted_or_missing(monkeypatch, reason):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    if "installed" in reason:
        monkeypatch.setitem(__import__("sys").modules, "triton", None)
    _, choices = choice.decide(OpsConfig(**dict.fromkeys(BACKENDS, AUTO)), CPU, Mesh(), verifying=False)
    assert not any(each.used.startswith("triton") for each in choices)
    assert reason in described(choices, reasons=True)


@pytest.mark.parametrize("on_failed_verification", ["stop", "fallback"])
def test_auto_goes_on_to_the_next_where_a_verification_fails(swiglu, caplog, on_failed_verification):
    swiglu(wrong=WRONG, right=RIGHT)
    found = decided(AUTO, on_failed_verification=on_failed_verification)
    assert found.used == "right"
    assert found.reasons == ("not wrong for swiglu: its verification failed",)
    assert [(each.backend, each.passed) for each in found.verifications] == [("wrong", False), ("right", True)]
    assert caplog.text.count("VERIFICATION FAILED: auto does not take ops.swiglu=wrong") == 1
    swiglu(wrong=WRONG, raising=Backend("tests.ops.planted:raising"))
    found = decided(AUTO)
    assert (found.used, len(found.reasons)) == (REFERENCE, 2)


# ---------------------------------------------------------------- auto with measurements


@pytest.fixture
def measured(monkeypatch):
    """The backends of each measurement, in place of a GPU's; verifications run on the CPU."""
    milliseconds = {"right": 2.0, "quick": 1.0, "wrong": 0.1, REFERENCE: 3.0, "slow": 4.0}
    calls: list[list[str]] = []
    verify = choice.verify

    def measure(op, backends, place):
        calls.append(backends)
        return {name: milliseconds[name] for name in backends if name in milliseconds}

    monkeypatch.setattr(choice, "measure", measure)
    monkeypatch.setattr(choice, "verify", lambda op, name, place: verify(op, name, replace(place, device=CPU.device)))
    monkeypatch.setattr(choice, "verify_products", lambda place: [])
    monkeypatch.setattr(measuring.torch.cuda, "get_device_name", lambda device: "a GPU")
    return calls


def test_auto_takes_the_fastest_that_is_right(swiglu, measured):
    swiglu(wrong=WRONG, right=RIGHT, quick=RIGHT)
    found = decided(AUTO, GPU)
    assert found.used == "quick"
    assert found.milliseconds == {"right": 2.0, "quick": 1.0, REFERENCE: 3.0}
    assert found.reasons == ("not wrong for swiglu: its verification failed",)
    assert [verification.passed for verification in found.verifications] == [False, True]
    swiglu(slow=RIGHT)
    assert decided(AUTO, GPU).used == REFERENCE


OTHERS = {
    "nothing": {},
    "dtype": {"dtype": torch.bfloat16},
    "sizes": {"shapes": replace(SHAPES, length=13)},
    "device": (measuring.torch.cuda, "get_device_name"),
    "cudnn": (measuring.torch.backends.cudnn, "version"),
    "source": (measuring, "source_hash"),
    "determinism": None,
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_was_measured_is_taken_in_the_same_place_with_the_same_programs_only(
    swiglu, monkeypatch, measured, tmp_path, other
):
    swiglu(right=RIGHT, quick=RIGHT)
    cache = tmp_path / "folder" / "ops.json"
    decided(AUTO, GPU, verifying=False, cache=cache)
    change, place = OTHERS[other], GPU
    if isinstance(change, dict):
        place = replace(GPU, **change)
    elif isinstance(change, tuple):
        monkeypatch.setattr(*change, lambda *device: "another")
    torch.use_deterministic_algorithms(other == "determinism")
    try:
        assert decided(AUTO, place, verifying=False, cache=cache).used == "quick"
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(measured) == len(json.loads(cache.read_text())) == (1 if other == "nothing" else 2)


def test_what_is_remembered_and_no_longer_right_is_neither_taken_nor_kept(swiglu, measured, tmp_path):
    cache = tmp_path / "ops.json"
    swiglu(right=RIGHT, quick=RIGHT)
    decided(AUTO, GPU, cache=cache)
    swiglu(right=RIGHT, quick=WRONG)
    for verifying in (True, False):  # the second start does not fall for the memory either
        found = decided(AUTO, GPU, verifying=verifying, cache=cache)
        assert found.used == "right"
        assert "not quick for swiglu: its verification failed" in found.reasons
    assert json.loads(cache.read_text()) == {}


def test_a_backend_that_fails_at_the_sizes_of_the_run_is_no_candidate(swiglu, caplog):
    swiglu(right=RIGHT, large=Backend("tests.ops.planted:too_large"))
    place = replace(CPU, shapes=replace(SHAPES, length=40))
    assert measuring.measure("swiglu", ["large", "right"], place).keys() == {"right"}
    assert "ops.swiglu=large is not measured: at these sizes it raised OutOfMemoryError: CUDA out" in caplog.text
    assert measuring.measure("swiglu", ["large"], place) == {}


def test_a_backend_that_could_not_run_is_named_also_from_memory(swiglu, measured, tmp_path):
    swiglu(right=RIGHT, large=RIGHT)
    for _ in range(2):
        found = decided(AUTO, GPU, verifying=False, cache=tmp_path / "ops.json")
        assert found.reasons == ("not large for swiglu: it could not run at the sizes of this run",)
    assert len(measured) == 1


@pytest.mark.parametrize("text", ["{", "[]", [], {"gone": 0.5, "right": 2.0}], ids=str)
def test_a_memory_that_is_damaged_or_of_other_backends_is_measured_again(swiglu, measured, tmp_path, text):
    swiglu(right=RIGHT)
    cache = tmp_path / "ops.json"
    decided(AUTO, GPU, verifying=False, cache=cache)
    written = cache.read_text()
    cache.write_text(text if isinstance(text, str) else json.dumps(dict.fromkeys(json.loads(written), text)))
    assert decided(AUTO, GPU, verifying=False, cache=cache).used == "right"
    assert len(measured) == 2
    assert json.loads(cache.read_text()).items() >= json.loads(written).items()


def test_a_memory_that_cannot_be_written_is_a_warning(swiglu, measured, tmp_path, caplog):
    swiglu(right=RIGHT)
    (tmp_path / "file").write_text("")
    decided(AUTO, GPU, verifying=False, cache=tmp_path / "file" / "ops.json")
    assert "is not kept" in caplog.text


# ---------------------------------------------------------------- several ranks


class Ranks(Mesh):
    """Answers whether all ranks agree; `first` is what rank 0 chose."""

    def __init__(self, *answers: bool, first: Choice | None = None) -> None:
        super().__init__()
        self.answers, self.first = iter(answers), first

    def all(self, value):
        return next(self.answers, value)

    def from_first(self, make, doing):
        return self.first or make()


def test_all_ranks_take_what_the_first_one_measured(swiglu, measured):
    swiglu(right=RIGHT, quick=RIGHT)
    assert decided(AUTO, GPU, ranks=Ranks(first=Choice("swiglu", AUTO, "right"))).used == "right"
    assert not measured


def test_a_verification_that_fails_on_another_rank_counts_on_all(swiglu):
    swiglu(quick=RIGHT, right=RIGHT)
    with pytest.raises(FailedVerificationError, match="failed on another rank"):
        decided("right", ranks=Ranks(False))
    found = decided(AUTO, ranks=Ranks(False, True))
    assert (found.used, found.reasons) == ("right", ("not quick for swiglu: its verification failed",))


# ---------------------------------------------------------------- fp8


def products(monkeypatch, distance: float) -> None:
    compared = (Difference("output", distance, 0.02),)
    found = Verification("fp8", "units", "products", "16 x 16", "bf16", False, 0.1, compared)
    monkeypatch.setattr(choice, "verify_products", lambda place: [found])


@pytest.mark.parametrize(
    ("verifying", "idle", "verified"), [(True, False, ["units"]), (False, False, []), (True, True, None)]
)
def test_products_of_fp8_are_verified_where_a_run_computes_with_them(monkeypatch, verifying, idle, verified):
    products(monkeypatch, 0.01)
    without = frozenset({"fp8"}) if idle else frozenset()
    _, choices = choice.decide(OpsConfig(), CPU, Mesh(), verifying=verifying, idle=without)
    found = {each.op: [verification.backend for verification in each.verifications] for each in choices}
    assert found.get("fp8") == verified


@pytest.mark.parametrize(
    ("distance", "ranks", "why"),
    [(0.5, Mesh(), "output is 5.0e-01"), (0.01, Ranks(False), "it failed on another rank")],
)
def test_wrong_products_of_fp8_stop_the_run_whatever_is_asked_for(monkeypatch, distance, ranks, why):
    products(monkeypatch, distance)
    config = OpsConfig(fp8=AUTO, on_failed_verification="fallback")
    monkeypatch.setitem(BACKENDS, "fp8", {REFERENCE: BACKENDS["fp8"][REFERENCE]})
    with pytest.raises(FailedVerificationError, match=rf"(?s)precision=fp8: got .*Set precision=bf16.*{why}"):
        choice.decide(config, CPU, ranks, verifying=True)


@pytest.mark.parametrize(("recipe", "used"), [("delayed", "quick"), ("tensorwise", "right")])
def test_pieces_of_fp8_are_measured_where_they_differ_in_what_they_cast_on_the_way(monkeypatch, measured, recipe, used):
    monkeypatch.setitem(BACKENDS, "fp8", dict.fromkeys(("right", "quick", REFERENCE), BACKENDS["fp8"][REFERENCE]))
    place = replace(GPU, fp8=Fp8Config(recipe=recipe))
    _, choices = choice.decide(OpsConfig(fp8=AUTO), place, Mesh(), verifying=True)
    (found,) = (each for each in choices if each.op == "fp8")
    assert (found.used, bool(measured)) == (used, recipe == "delayed")
    assert {verification.passed for verification in found.verifications} == {True}


def test_a_measurement_of_fp8_runs_the_producers_of_a_block_with_known_scales(monkeypatch):
    calls = []

    class Watched(Pieces):
        def cast(self, x, quantisation):
            calls.append((quantisation.format.name, quantisation.fused, tuple(x.shape)))
            return super().cast(x, quantisation)

    monkeypatch.setattr(f"{__name__}.WATCHED", Watched())
    monkeypatch.setitem(BACKENDS["fp8"], "watched", Backend(f"{__name__}:WATCHED"))
    place = replace(CPU, dtype=torch.bfloat16, fp8=Fp8Config(gradients="e4m3"))
    assert measuring.measure("fp8", ["watched", REFERENCE], place).keys() == {"watched", REFERENCE}
    norm, product, both = (12, 16), (12, 24), (12, 48)
    assert calls[:5] == [("e4m3", True, shape) for shape in (norm, norm, norm, product, both)]
    facts = [measuring.facts_of("fp8", replace(place, fp8=Fp8Config(gradients=name))) for name in ("e4m3", "e5m2")]
    assert facts[0] != facts[1]


# ---------------------------------------------------------------- after a resume


def test_a_resumed_run_stays_with_what_it_used_where_that_is_right_and_not_named_otherwise(swiglu, measured):
    swiglu(far=ELSEWHERE, wrong=WRONG, right=RIGHT, quick=RIGHT)
    found = decided(AUTO, GPU, before={"swiglu": "right"})
    assert found.used == "right"
    assert [verification.backend for verification in found.verifications] == ["right"]
    assert not measured
    for used in ("far", "wrong", "no backend any more"):
        assert decided(AUTO, GPU, before={"swiglu": used}).used == "quick"
    assert decided("right", verifying=False, before={"swiglu": REFERENCE}).used == "right"
