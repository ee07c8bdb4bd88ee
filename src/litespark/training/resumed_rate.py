"""What a resume says where the learning rate does not go on as it was: both rates, why, and how to keep the old one."""

import math
from collections.abc import Callable
from dataclasses import replace

from litespark.training.budget import TokenBudget


def change_of_rate(
    rate: Callable[[TokenBudget, int, int], float], before: float, old: TokenBudget, new: TokenBudget, *position: int
) -> str | None:
    """A line about the learning rate of the next step, or None where it goes on as it was.

    `rate` gives that of the step that ends at so many tokens and steps of a budget, `before` is that of the last step,
    `position` tokens seen and steps taken.
    """
    tokens, steps = position
    as_it_was, kept = rate(old, tokens, steps), old.schedule_end_for(new, tokens, steps)
    settings_changed = not math.isclose(as_it_was, before, rel_tol=1e-6)
    # steps of another size alone move the end of the schedule by less than a step, which is no jump
    replanned = kept != new.schedule_length and not math.isclose(rate(new, tokens, steps), as_it_was, rel_tol=1e-6)
    if not (settings_changed or replanned):
        return None
    after = rate(new, tokens + new.tokens_per_step, steps + 1)
    line = f"learning rate: {before:.4g} in step {steps}, the last before the resume, {after:.4g} in the next one"
    if settings_changed:
        line += "; optim.lr or the settings of schedule have changed"
    if replanned:
        end = rate(replace(new, schedule_end=kept), 2 * max(tokens, kept), 2 * max(steps, kept))
        line += (
            "; the schedule is recomputed over the new budget. To keep the old one, and its end rate of "
            f"{end:.4g} after its end, set budget.schedule_end={kept}"
        )
    return line
