# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What bought what
#
# Reads the record of an ablation, which `litespark bench ablation` wrote: the settings in which a baseline and a target
# differ, switched on one after the other. Nothing is measured here, so this works on any machine.
#
# Which record: the environment variable `LITESPARK_ABLATION` (a file), else the newest one under `results`.

# %%
# %matplotlib inline
import os
from pathlib import Path

from IPython.display import display

from litespark.metrics.records.ablation import AblationRecord
from litespark.reports import ablation

# %%
chosen = os.environ.get("LITESPARK_ABLATION")
if chosen is None:
    # a notebook runs in its own folder; results lie beside that folder
    results = Path("results") if Path("results").is_dir() else Path("../results")
    records = sorted(results.glob("*/*_bench-ablation_*.json"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise ValueError(f"found no record of an ablation under {results}; measure one with: litespark bench ablation")
    chosen = records[-1]
record = AblationRecord.read(Path(chosen))
print(f"{Path(chosen).name}: {len(record.switches)} switches, {record.protocol.rounds} rounds"
      + ("" if record.complete else ", NOT complete"))  # fmt: skip

# %% [markdown]
# ## The table
#
# Each row has one switch more on than the row before. *× before* is tokens/s over those of that row; *lost without it*
# is what the target loses where this switch alone is off. The two differ where switches help each other or do the same
# work: read both. A difference that is smaller than its interval is none.

# %%
display(ablation.of_record(record))

# %% [markdown]
# ## The way from the baseline to the target

# %%
table = ablation.from_record(record)
display(ablation.waterfall(table, record.model.name))

# %% [markdown]
# ## Ordered by what would be lost without it

# %%
missed = [row for row in table.rows if row.lost_without is not None]
for row in sorted(missed, key=lambda row: row.lost_without.median, reverse=True):
    lost = row.lost_without
    sure = lost.low > 0 or lost.high < 0
    print(f"{row.switch:24} {100 * lost.median:6.1f} %" + ("" if sure else "  (the repeats do not agree on the sign)"))

# %% [markdown]
# ## Energy

# %%
if table.joules_reason is None:
    for row in table.rows:
        energy = row.joules_per_token
        print(
            f"{row.switch or 'baseline':24} " + ("not measured" if energy is None else f"{energy.median:.4g} J/token")
        )
else:
    print(f"J/token was not measured: {table.joules_reason}")
