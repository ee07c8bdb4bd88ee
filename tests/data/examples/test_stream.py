"""The batches of prepared examples: each example once an epoch, in an order that is exact on resume, and isolated."""

import pickle
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from litespark.data.examples.batch import pack
from litespark.data.examples.prepare import prepare
from litespark.data.examples.stream import ExampleDataModule
from litespark.data.stream import modules as streaming
from litespark.data.text.functions import records_in
from litespark.mesh import Roles
from litespark.models.init import initialise
from litespark.ops.backend import OpsConfig, resolve
from tests.data.examples.chats import config, write_lines, write_tokenizer
from tests.training.small_runs import small_llama

RECORDS = [
    {"prompt": f"what is {number}? " + "so " * (number % 5), "chosen": f"it is {number}", "rejected": "no", "margin": n}
    for n, number in enumerate(range(100, 140))
]
PAIRS = {"format": "pairs", "seq_len": 96}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("stream")
    source = write_lines(root / "records.jsonl", RECORDS)
    made = config(source, root / "prepared", tokenizer=str(write_tokenizer(root / "tokenizer")), **PAIRS)
    return prepare(made)


def module(folder, **changes):
    return ExampleDataModule(folder, config("unread", folder, **PAIRS | changes), seed=5)


def numbers(data, count):
    return [batch.examples.tolist() for batch in islice(data.train_dataloader(), count)]


def test_an_epoch_has_each_example_once_in_full_sequences(prepared):
    data = module(prepared, micro_batch_size=1)
    epoch = [number for batch in numbers(data, data.train_sequences) for number in batch]
    examples = data.examples("train")
    assert sorted(epoch) == list(range(len(examples)))
    assert epoch != sorted(epoch)
    assert data.manifest.filled("train") > 0.8
    batch = next(iter(data.train_dataloader()))
    assert batch.about["margin"].tolist() == [examples[number].about["margin"] for number in batch.examples]
    assert batch.sequence_count == 2 * batch.example_count
    # the last id of a chosen and of a rejected answer is EOS, a label; each example comes back as it was written
    again = pack([[(n, pickle.loads(pickle.dumps(examples))[n]) for n in batch.examples.tolist()]], 96, fill_id=2)
    assert torch.equal(again.tokens, batch.tokens)
    assert torch.equal(again.labels, batch.labels)


def test_the_stream_goes_on_exactly_whatever_the_ranks_workers_and_batch(prepared, monkeypatch):
    whole = [number for batch in numbers(module(prepared, micro_batch_size=1), 24) for number in batch]
    data = module(prepared, micro_batch_size=2)
    data.start_at(8)
    state = data.state_dict()
    resumed = module(prepared, micro_batch_size=4, workers=1)
    resumed.load_state_dict(state)
    first = [number for batch in numbers(module(prepared, micro_batch_size=4), 2) for number in batch]
    assert first + [number for batch in numbers(resumed, 4) for number in batch] == whole
    with pytest.raises(ValueError, match="position belongs to seq_len=64"):
        resumed.load_state_dict(state | {"seq_len": 64})
    ranks = []
    for rank in range(2):
        mesh = SimpleNamespace(data_rank=rank, roles=Roles(replicate=2))
        monkeypatch.setattr(streaming, "Mesh", lambda mesh=mesh: mesh)
        ranks.append(numbers(module(prepared, micro_batch_size=2), 6))
    assert [number for both in zip(*ranks, strict=True) for batch in both for number in batch] == whole


def test_a_validation_has_each_example_once_over_all_ranks(prepared, monkeypatch):
    data = module(prepared, micro_batch_size=1)
    expected = sorted(range(len(data.examples("validation"))))
    found, batches = [], set()
    for rank in range(3):
        mesh = SimpleNamespace(data_rank=rank, roles=Roles(replicate=3))
        monkeypatch.setattr(streaming, "Mesh", lambda mesh=mesh: mesh)
        mine = list(module(prepared, micro_batch_size=2).val_dataloader())
        batches.add(len(mine))
        found += [number for batch in mine for number in batch.examples.tolist()]
        assert {batch.domain for batch in mine} == {"text"}
    assert sorted(found) == expected
    assert len(batches) == 1


def test_shared_prompts_leave_room_for_more_examples_of_which_each_is_still_there_once(prepared, tmp_path):
    source = write_lines(tmp_path / "records.jsonl", RECORDS)
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    folder = prepare(config(source, tmp_path / "prepared", tokenizer=tokenizer, **PAIRS, share_prompts=True))
    once, twice = module(folder, share_prompts=True, micro_batch_size=1), module(prepared)
    assert once.train_sequences < twice.train_sequences
    batches = list(islice(once.train_dataloader(), once.train_sequences))
    assert sorted(number for batch in batches for number in batch.examples.tolist()) == list(
        range(len(once.examples("train")))
    )
    assert sum(batch.token_count for batch in batches) == once.manifest.splits["train"].tokens
    assert once.manifest.splits["train"].tokens < twice.manifest.splits["train"].tokens
    with pytest.raises(ValueError, match=r"data\.share_prompts=False, expected True"):
        module(prepared, share_prompts=True)


def test_a_prompt_has_a_sequence_for_itself(tmp_path):
    source = write_lines(tmp_path / "records.jsonl", [{"prompt": f"what {n}", "level": n} for n in range(9)])
    made = config(source, tmp_path, tokenizer=str(write_tokenizer(tmp_path / "tokenizer")), format="prompts")
    data = ExampleDataModule(prepare(made), made, seed=1)
    batch = next(iter(data.train_dataloader()))
    assert batch.example_count == 2
    assert batch.weight_sum == 0
    levels = [data.examples("train")[number].about["level"] for number in batch.examples.tolist()]
    assert len(set(levels)) == 2


def test_gradients_of_an_example_do_not_change_with_its_neighbours(prepared):
    data = module(prepared, micro_batch_size=2)
    batch = next(iter(data.train_dataloader()))
    spec = small_llama(vocab_size=280, max_seq_len=96)
    model = spec.build(resolve(OpsConfig()), "none")
    initialise(model, spec, 1)

    def gradients(batch, sequence):
        model.zero_grad()
        layout = {"positions": batch.positions, "documents": batch.documents, "cu_seqlens": batch.cu_seqlens}
        nats = model(batch.tokens, batch.labels, **layout, reduction="none").nats
        batch.sums(nats * batch.weights)[sequence].backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    examples = data.examples("train")
    for place in (1, batch.example_count - 1):
        number = int(batch.examples[place])
        alone = pack([[(number, examples[number])]], 96, fill_id=0)
        for side in range(2):
            mine, theirs = gradients(batch, 2 * place + side), gradients(alone, side)
            assert theirs.norm() > 0.1
            assert (mine - theirs).norm() < 1e-5 * theirs.norm()


SOURCE = '''
import os

class Shelf:
    @property
    def width(self) -> int:
        """The width of the shelf,
        in cm.

        More about it.
        """
        return self._width  # as measured

    def bare(self):
        return 1

def join(first, second="("):
    """Join two texts."""
    if first:
        return first + second
    return second

def only():
    """Nothing but this."""
'''


def test_functions_are_prompts_with_their_code_and_worse_answers_do_not_do(tmp_path):
    first, second = records_in(SOURCE, "conversations")
    assert first["prompt"] == "# The width of the shelf, in cm.\n# def width(self) -> int\n"
    assert first["completion"] == "def width(self) -> int:\n    return self._width  # as measured\n"
    assert second["completion"].startswith('def join(first, second="("):\n    if first:\n')
    many = "".join(f'def f{n}(x):\n    """Take {n}."""\n    return x - {n}\n\n' for n in range(20))
    pairs = list(records_in(many, "pairs"))
    assert len(pairs) == 20
    codes = {pair["chosen"] for pair in pairs}
    broken = [pair["rejected"] for pair in pairs if pair["rejected"] not in codes]
    assert 4 < len(broken) < 16
    assert all(pair["rejected"] != pair["chosen"] for pair in pairs)
    for code in broken:
        with pytest.raises(SyntaxError):
            compile(code, "", "exec")
    assert list(records_in(many, "pairs")) == pairs
    assert next(records_in(SOURCE, "prompts"))["signature"] == "def width(self) -> int:"
    assert not list(records_in("def broken(:", "pairs"))


def test_whole_modules_of_the_standard_library_are_held_out_and_their_prompts_wherever_they_are(tmp_path):
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    made = config("standard_library", tmp_path, tokenizer=tokenizer, max_files=40, format="prompts", seq_len=2000)
    folder = prepare(made)
    data = ExampleDataModule(folder, made, seed=1)
    prompts = {}
    for split in ("train", "validation"):
        examples = data.examples(split)
        prompts[split] = {examples[number].sequences[0].tobytes() for number in range(len(examples))}
    assert prompts["train"]
    assert prompts["validation"]
    # of modules that say the same of a function, such as a method of two classes
    assert not prompts["train"] & prompts["validation"]
