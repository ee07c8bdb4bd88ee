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
# # Explore a run
#
# Loads the folder of a training run, shows its record, draws its curves and, when the run is one of a sweep, puts the
# whole sweep side by side. Nothing is trained and no model is loaded, so this works on any machine that has the folder.
#
# Which run: the environment variable `LITESPARK_RUN` (a run folder), else the newest one under `logs/runs`.

# %%
# %matplotlib inline
import os
from pathlib import Path

from IPython.display import display

from litespark.metrics import names
from litespark.reports import plots, tables
from litespark.reports.runs import compare, find_runs, load_run, load_runs

# %%
chosen = os.environ.get("LITESPARK_RUN")
if chosen is None:
    # a notebook runs in its own folder; logs lie beside that folder
    logs = Path("logs/runs") if Path("logs/runs").is_dir() else Path("../logs/runs")
    chosen = max(find_runs([logs]), key=lambda folder: (folder / "run.json").stat().st_mtime)
run = load_run(chosen)
print(f"{run.name}: {run.record.status}, {len(run.metrics)} logged steps, from {run.folder}")

# %% [markdown]
# ## What it reached and what that took
#
# `run.record` is `run.json` as a dataclass; `None` means that something was not measured.

# %%
display(tables.headline(run))

# %%
display(run.record.model, run.record.data, run.record.environment)

# %% [markdown]
# ## Curves
#
# Each function returns a matplotlib `Figure`, so it can be changed and saved like any other.

# %%
display(plots.plot_loss([run]))

# %%
display(plots.plot_throughput([run]))

# %%
display(plots.plot_mfu([run]))

# %%
display(plots.plot_energy([run]))

# %% [markdown]
# ## Where the joules went

# %%
display(tables.energy(run))

# %% [markdown]
# ## The numbers themselves
#
# `run.metrics` is a data frame with one row a logged step; `run.series(key)` is one metric over tokens without the rows
# in which it was not measured. For example, how fast the loss still falls at the end:

# %%
run.metrics.tail()

# %%
loss = run.series(names.TRAIN_LOSS)
if len(loss) >= 2:
    last = loss.iloc[len(loss) // 2 :]
    fall = (last.iloc[0] - last.iloc[-1]) / max(1, last.index[-1] - last.index[0])
    print(f"over the second half: {fall * 1e6:.3g} nats per million tokens")

# %% [markdown]
# ## What it writes

# %%
print(run.record.quality.sample or "no sample was generated")

# %% [markdown]
# ## The runs beside it
#
# A sweep writes one folder a run beside the others. Here are the newest of them with the settings in which they differ.
# Any other runs can be compared in the same way: give their folders to `load_runs`.

# %%
MOST_RUNS = 12
newest = sorted(find_runs([run.folder.resolve().parent]), key=lambda folder: (folder / "run.json").stat().st_mtime)
neighbours = load_runs(newest[-MOST_RUNS:])
if len(neighbours) > 1:
    display(compare(neighbours))
    display(plots.plot_loss(neighbours))
    display(plots.plot_throughput(neighbours))
    display(plots.plot_energy(neighbours))
else:
    print("There is no other run beside this one.")
