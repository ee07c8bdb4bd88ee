"""The pieces of blocks in fp8 under annotations: each says its class, and what is shared stays as it is."""

import inspect

import torch
from torch.profiler import ProfilerActivity, profile

from litespark.benchmarks.profile.classes import scope
from litespark.benchmarks.profile.scopes import _PIECES, annotated_pieces
from litespark.ops.fp8.formats import E4M3
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.fp8.reference import PIECES, Pieces


def test_every_piece_has_a_class():
    methods = {name for name, _ in inspect.getmembers(Pieces, inspect.isfunction) if not name.startswith("_")}
    assert set(_PIECES) == methods


def test_a_piece_and_the_cast_within_it_are_annotated_and_the_shared_pieces_are_not():
    mine = annotated_pieces(PIECES)
    arguments = (torch.randn(16, 32), None, torch.ones(32), 1e-5, Quantisation(E4M3))
    dtypes = {"stream_dtype": torch.float32, "dtype": torch.float32}
    expected = PIECES.add_rms_norm(*arguments, **dtypes)
    assert not vars(PIECES)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        found = mine.add_rms_norm(*arguments, **dtypes)
        Pieces().cast(arguments[0], Quantisation(E4M3))
    assert torch.equal(found[1].rows.values.view(torch.uint8), expected[1].rows.values.view(torch.uint8))
    events = {each.name: each for each in profiler.events() if each.name.startswith(scope(""))}
    assert set(events) == {scope("norm"), scope("copies")}
    around, within = events[scope("norm")].time_range, events[scope("copies")].time_range
    assert around.start <= within.start <= within.end <= around.end
