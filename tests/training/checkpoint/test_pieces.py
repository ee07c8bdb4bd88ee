"""Tensors of a checkpoint in pieces: each is written once, and any other division is read from them."""

from math import prod

import pytest
import torch

from litespark.training.checkpoint.files import CheckpointError, MappedFiles, verify_file, write_tensors
from litespark.training.checkpoint.pieces import Held, StoredTensor, divide, held
from litespark.training.checkpoint.plain import decode, encode

WHOLE = torch.arange(7 * 6, dtype=torch.float32).reshape(7, 6)


def rows(begin, end, first=0, last=6):
    return Held((7, 6), "F32", (begin, first), (end - begin, last - first))


def part(piece):
    return WHOLE[tuple(slice(at, at + size) for at, size in zip(piece.offsets, piece.sizes, strict=True))]


def test_what_several_ranks_hold_is_written_by_one_and_shared_out():
    name_of = {
        f"w{number}": Held((100, 1 + number // 2), "BF16", (0, 0), (100, 1 + number // 2)) for number in range(12)
    }
    index, keys = divide([name_of] * 4, {"w3": "w2"}, range(4))
    written = [name for of_rank in keys for name in of_rank.values()]
    assert sorted(written) == sorted(name_of.keys() - {"w3"})
    sizes = [sum(name_of[name].nbytes for name in of_rank.values()) for of_rank in keys]
    assert max(sizes) - min(sizes) < max(piece.nbytes for piece in name_of.values())
    assert index["w3"].chunks == index["w2"].chunks


@pytest.mark.parametrize(
    "pieces",
    [
        [rows(0, 7)],
        [rows(0, 4), rows(4, 7), rows(7, 7), rows(7, 7)],
        [rows(0, 4, 0, 3), rows(0, 4, 3, 6), rows(4, 7, 0, 3), rows(4, 7, 3, 6)],
        [rows(0, 4), rows(4, 7), rows(0, 4), rows(4, 7)],
    ],
    ids=["whole", "by rows, some empty", "by rows and columns", "by rows, copied"],
)
def test_any_division_is_read_whole_and_in_part(tmp_path, pieces):
    index, keys = divide([{"w": piece} for piece in pieces], {}, range(len(pieces)))
    files = {}
    for rank, (piece, mine) in enumerate(zip(pieces, keys, strict=True)):
        if mine:
            name = f"rank-{rank:05d}.safetensors"
            files[name] = write_tensors(tmp_path / name, dict.fromkeys(mine, part(piece)))
            verify_file(tmp_path / name, files[name])
    assert len(index["w"].chunks) == sum(map(len, keys)) == len({piece for piece in pieces if prod(piece.sizes)})
    stored = StoredTensor("w", index["w"], MappedFiles(tmp_path, files))
    assert torch.equal(stored.whole(), WHOLE)
    target = torch.empty(7, 6, dtype=torch.float64)
    stored.read_into(target)
    assert torch.equal(target, WHOLE.double())


def test_a_piece_that_no_writer_holds_is_an_error_and_so_is_one_that_is_not_in_the_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"w is not whole on the ranks.*all ranks share"):
        divide([{"w": rows(0, 4)}, {"w": rows(4, 7)}], {}, [0])
    index, (mine, _) = divide([{"w": rows(0, 4)}, {"w": rows(4, 7)}], {}, [0, 1])
    files = {"rank-00000.safetensors": write_tensors(tmp_path / "rank-00000.safetensors", dict.fromkeys(mine, WHOLE))}
    with pytest.raises(CheckpointError, match=r"w\[0:4,0:6\] is \(7, 6\) of torch.float32, its seal has \(4, 6\)"):
        StoredTensor("w", index["w"], MappedFiles(tmp_path, files)).whole()


def test_tied_weights_are_one_and_what_is_empty_is_none():
    one, empty = torch.ones(3, 2), torch.empty(0, 2)
    tensors = {"a": one, "b": one, "half": one[:1], "c": empty, "d": empty}
    assert held(tensors)[1] == {"b": "a"}


def test_a_file_has_every_dtype_and_nothing_on_the_cpu_is_copied(tmp_path):
    tensors = {
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.0),
        "bf16": torch.randn(3, 5).bfloat16(),
        "turned": torch.randn(4, 3).T,
        "fp8": torch.randn(5).to(torch.float8_e4m3fn),
        "none": torch.empty(0, 3),
        "int64": torch.tensor([2**40]),
    }
    files = MappedFiles(tmp_path, {"x": write_tensors(tmp_path / "x", tensors)})
    for name, tensor in tensors.items():
        read = files.tensor("x", name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read.float(), tensor.float())


def test_plain_values_come_back_as_they_were_and_others_are_named():
    value = {
        "a": [1, 2.5, None, "x", True, (1, (2,))],
        "numbers": [float("inf"), 1e-45],
        3: {("k", 1): torch.ones(2)},
        "$tensor": "a key of its own",
    }
    tensors, refused = {}, []
    back = decode(encode(value, "rest", tensors, refused), tensors.__getitem__)
    assert not refused
    assert len(tensors) == 1
    assert back.pop(3)[("k", 1)].tolist() == [1, 1]
    del value[3]
    assert back == value
    assert type(back["a"][5]) is tuple
    encode({"a": [object(), {1}]}, "", {}, refused)
    assert refused == ["builtins.object", "builtins.set"]
