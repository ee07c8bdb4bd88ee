"""What is done with finished runs: `litespark report`, `export` and `generate`."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from litespark.cli.configs import number
from litespark.ranges import Count, NotNegative, Range, Seed

Likeliest = Annotated[float, Range(above=0, at_most=1)]


def report(
    folders: Annotated[list[Path], Argument(metavar="FOLDER", help="Run folders, or folders of runs")],
    output: Annotated[Path | None, Option(help="Folder for the comparison; that in which all FOLDERs are")] = None,
) -> int:
    """Write the report of a run, or several runs side by side."""
    from litespark.reports.report import write_comparison, write_report
    from litespark.reports.runs import find_runs

    runs = find_runs(folders)
    if len(runs) == 1 and output is None:
        print(write_report(runs[0]))
        return 0
    common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    print(write_comparison(folders, output or common))
    return 0


def export(
    run: Annotated[str, Argument(metavar="RUN_OR_CHECKPOINT", help="logs/runs/NAME, or a checkpoints/step-… in it")],
    output: Annotated[Path, Argument(metavar="OUTPUT", help="Folder to write; new or empty")],
    *,
    adapter: Annotated[bool, Option("--adapter", help="Write the adapter alone, for peft; else it is merged")] = False,
) -> int:
    """Write a trained model as a Hugging Face folder."""
    from litespark.run import load

    if output.exists() and (not output.is_dir() or any(output.iterdir())):  # before a large model is read
        raise ValueError(f"{output} exists and is not empty; export into a new folder, or remove it first")
    model, checkpoint = (load.export_adapter if adapter else load.export)(run, output)
    print(f"{output}: {model.name} after step {checkpoint.step}, for {'peft' if adapter else 'transformers'}")
    return 0


def generate(
    run: Annotated[Path, Argument(metavar="RUN_OR_CHECKPOINT", help="Or a folder that `litespark export` wrote")],
    *,
    prompt: Annotated[str, Option(help="Text to continue")],
    tokens: Annotated[int, number(Count, "At most so many new tokens")] = 96,
    temperature: Annotated[float, number(NotNegative, "0: the likeliest token")] = 0.8,
    top_k: Annotated[int | None, number(Count, "Sample among the k likeliest")] = None,
    top_p: Annotated[float | None, number(Likeliest, "Sample among the likeliest that reach probability p")] = None,
    seed: Annotated[int, number(Seed, "Of the sampling")] = 0,
) -> int:
    """Continue a text with a trained model."""
    import torch

    from litespark.data.tokenizer import Tokenizer
    from litespark.device import find
    from litespark.models import generate as generation
    from litespark.run.load import load_for_generation

    model, folder, ends = load_for_generation(run)
    model.to(device := find("auto"))
    tokenizer = Tokenizer.load(folder)
    given = tokenizer.encode_prompt(_typed(prompt))
    ids = generation.generate(
        model,
        torch.tensor([given], device=device),
        tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        eos_id=[tokenizer.eos_id, *ends],
        vocab_size=tokenizer.vocab_size,
        seed=seed,
    )
    # decoded as one text, since a tokenizer may treat the beginning of a text differently
    print(tokenizer.decode(ids[0].tolist()).removeprefix(tokenizer.decode(given)))
    return 0


def _typed(word: str) -> str:
    """A text of the command line as it was typed: its bytes are UTF-8 also where the locale has other letters."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word
