"""A callback of ours hears of steps, not of micro-batches, and knows which end an interval."""

from types import SimpleNamespace

import pytest

from litespark.callbacks.steps import StepCallback


class Listener(StepCallback):
    def __init__(self, every):
        super().__init__(every)
        self.ended, self.those_due = [], []

    def step_ended(self, trainer, module):
        self.ended.append(module.steps_taken)
        if self.due(module):
            self.those_due.append(module.steps_taken)


@pytest.mark.parametrize(
    ("every", "first", "last", "due"),
    [(4, 0, 10, [4, 8, 10]), (5, 0, 10, [5, 10]), (100, 0, 3, [3]), (4, 6, 9, [8, 9])],
)
def test_each_step_is_heard_once_and_intervals_end_at_their_multiples_and_with_the_run(every, first, last, due):
    listener, module = Listener(every), SimpleNamespace(steps_taken=first, finished=False)
    listener.on_train_start(None, module)
    for step in range(first + 1, last + 1):
        for taken in (step - 1, step - 1, step):  # three micro-batches
            module.steps_taken, module.finished = taken, taken >= last
            listener.on_train_batch_end(None, module, None, None, 0)
    assert listener.ended == list(range(first + 1, last + 1))
    assert listener.those_due == due
