"""A record of a profile is read back as it was, and refused where it contradicts itself."""

import dataclasses
import json

import pytest

from litespark.metrics.records.profile import ClassRecord, KernelRecord, ProfileRecord
from litespark.metrics.records.strict_json import RecordError
from tests.metrics import step_records


def profile_record(**changes) -> ProfileRecord:
    """10 ms a step: 6 of products with a floor of 4, 2 of norms with one of 1.5, 1 of others and 1 of idleness."""
    step = step_records.record()
    values = {
        "provenance": step.provenance, "model": step.model, "protocol": step.protocol, "variant": "litespark",
        "settings": [], "about": "ours", "recompute": "none", "detail": "ops: rms_norm triton", "device_type": "cuda",
        "rates": step.rates, "tokens": 32, "attention_pairs": 80, "wall_milliseconds": 10.0,
        "unprofiled_milliseconds": 9.5,
        "classes": [
            ClassRecord("norm", 2.0, 1.5, [KernelRecord("rms_norm_forward_kernel", None, 2.0, 8)]),
            ClassRecord("gemm", 6.0, 4.0, [KernelRecord("nvjet", "aten::mm", 5.0, 8)]),
            ClassRecord("other", 1.0, None, [KernelRecord("elementwise_kernel", "aten::relu", 1.0, 4)]),
            ClassRecord("idle", 1.0, 0.0),
        ],
    }  # fmt: skip
    return ProfileRecord(**(values | changes))


def _with(number: int, **changes) -> list[ClassRecord]:
    classes = profile_record().classes
    classes[number] = dataclasses.replace(classes[number], **changes)
    return classes


def test_it_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "record.json"
    profile_record().write(path)
    assert ProfileRecord.read(path) == profile_record()


def test_what_has_most_to_win_comes_first():
    assert [each.kernel_class for each in profile_record().by_gap()] == ["gemm", "other", "idle", "norm"]
    assert [each.gap for each in profile_record().by_gap()] == [2.0, 1.0, 1.0, 0.5]


def test_a_time_that_was_changed_by_hand_is_refused(tmp_path):
    path = tmp_path / "record.json"
    profile_record().write(path)
    values = json.loads(path.read_text())
    values["wall_milliseconds"] = 9.0
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match="seal: got"):
        ProfileRecord.read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": _with(1, milliseconds=5.5)}, r"classes: got 9\.5\d* ms together, expected the 10\.0\d* ms"),
        ({"classes": _with(1, milliseconds=6.001)}, "classes: got"),
        ({"classes": profile_record().classes[:3]}, "expected each once and idle among them"),
        ({"classes": [*profile_record().classes, ClassRecord("norm", 0.0)]}, "expected each once"),
        ({"classes": _with(0, kernels=[KernelRecord("a", None, 2.5, 1)])}, r"classes\.norm: got 2\.0 ms and kernels"),
        ({"classes": _with(0, floor_milliseconds=-1.0)}, r"classes\.norm: got a floor of -1\.0"),
        ({"classes": _with(0, kernels=[KernelRecord("a", None, 1.0, 0)])}, r"classes\.norm: got a kernel without"),
        ({"wall_milliseconds": 0.0}, "expected both above 0"),
        ({"unprofiled_milliseconds": -1.0}, "expected both above 0"),
        ({"tokens": 0}, "tokens, attention_pairs: got 0 and 80"),
    ],
)
def test_what_contradicts_itself_is_neither_written_nor_read(tmp_path, changes, message):
    record, path = profile_record(**changes), tmp_path / "record.json"
    with pytest.raises(RecordError, match=message):
        record.write(path)
    assert not path.exists()
    # under a right seal too
    ProfileRecord.check, check = lambda self: None, ProfileRecord.check
    try:
        record.write(path)
    finally:
        ProfileRecord.check = check
    with pytest.raises(RecordError, match=message):
        ProfileRecord.read(path)
