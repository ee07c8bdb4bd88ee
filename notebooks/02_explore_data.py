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
# # Explore prepared data
#
# Reads the manifest of what `litespark prepare` wrote: which domains there are, how long their documents are, and what
# was left out and why. No chunk is read, so this costs the same for a miniature and for a whole corpus.
#
# Which data: the environment variable `LITESPARK_DATA` (a prepared folder, its address such as `s3://BUCKET/FOLDER`, or
# the folder of a run, which keeps what its data was), else the folder under `data/prepared` that was prepared last.

# %%
# %matplotlib inline
import os
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from litespark.data.contents import PreparedData
from litespark.data.manifest import Manifest
from litespark.reports import prepared_data, prepared_plots

# %%
chosen = os.environ.get("LITESPARK_DATA")
if chosen is None:
    # a notebook runs in its own folder; data lies beside that folder
    root = Path("data/prepared") if Path("data/prepared").is_dir() else Path("../data/prepared")
    manifests = sorted(root.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        raise ValueError(f"found no prepared folder under {root}; prepare one with: litespark prepare")
    chosen = str(manifests[-1].parent)
data = PreparedData.of(Manifest.read(chosen)) if "://" in chosen else PreparedData.read(chosen)
print(f"{data.name} from {chosen}")
display(Markdown(prepared_data.about(data)))

# %% [markdown]
# ## Domains
#
# A domain is what `data.domain_field` names in each record. Tokens include the EOS that ends each document.

# %%
display(prepared_data.domains(data))

# %% [markdown]
# ## Lengths of documents
#
# In tokens, counted between powers of two. Where most documents are shorter than the sequence length, a sequence
# holds several of them, and the document mask keeps them apart; where they are longer, they are cut.

# %%
display(prepared_data.lengths(data))

# %%
display(prepared_plots.plot_lengths(data))

# %% [markdown]
# ## Dropped documents
#
# `reading/…` are lines that are no document, `selection/…` documents that a rule of `data.selection` refused.
# Validation text is never selected.

# %%
display(prepared_data.left_out(data))
if (reasons := prepared_data.reasons(data)) is not None:
    display(reasons)

# %% [markdown]
# Figures say how much went; whether the rules are right shows only in what went. The first of each:

# %%
if data.left_out:
    display(Markdown(prepared_data.examples(data, most=10)))

# %% [markdown]
# ## The numbers themselves
#
# `data.domains_of(split)` has the counts of each domain, `data.left_out` is a list of plain rows. For example, how many
# tokens a selection took from each domain of the training text, for each that it left:

# %%
kept = pd.Series({domain: counts.tokens for domain, counts in data.domains_of("train").items()}, dtype=float)
gone = pd.DataFrame([asdict(row) for row in data.left_out_of("train")], columns=["domain", "rule", "tokens"])
gone["rule"] = gone["rule"].str.split("/").str[:2].str.join("/")  # without the reasons that some rules give
by_rule = gone.dropna().pivot_table(index="domain", columns="rule", values="tokens", aggfunc="sum", fill_value=0)
by_rule.div(kept.reindex(by_rule.index), axis=0)

# %% [markdown]
# ## How it was prepared
#
# Every setting that decided what was written: the same text with the same settings gives the same bytes.

# %%
for name, value in data.settings.items():
    print(f"{name:24} {value}")
