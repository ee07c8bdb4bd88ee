"""What is done with finished runs: `litespark report`, `export` and `generate`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Annotated

from litespark.cli.command import Command
from litespark.ranges import Count, NotNegative, Range, Seed, number

Likeliest = Annotated[float, Range(above=0, at_most=1)]


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="FOLDER", type=Path, help="run folders, or folders of runs")
    parser.add_argument(
        "--output", type=Path, help="folder for the comparison; default: the one that all FOLDERs are in"
    )


def _report(options: argparse.Namespace) -> int:
    from litespark.reports.report import write_comparison, write_report
    from litespark.reports.runs import find_runs

    runs = find_runs(options.folders)
    if len(runs) == 1 and options.output is None:
        print(write_report(runs[0]))
        return 0
    common = Path(os.path.commonpath([folder.resolve() for folder in options.folders]))
    print(write_comparison(options.folders, options.output or common))
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", help="logs/runs/NAME, or a checkpoints/step-… in it")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write; new or empty")


def _export(options: argparse.Namespace) -> int:
    from litespark.data.tokenizer import Tokenizer
    from litespark.experiment.load import load_trained
    from litespark.models.llama.huggingface import export_huggingface

    output: Path = options.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):  # before a large model is read
        raise ValueError(f"{output} exists and is not empty; export into a new folder, or remove it first")
    model, tokenizer, checkpoint = load_trained(options.run)
    ids = Tokenizer.load(tokenizer)
    bos_id = ids.begin_ids[0] if ids.begin_ids else None
    export_huggingface(model, output, tokenizer=tokenizer, eos_id=ids.eos_id, bos_id=bos_id, pad_id=ids.pad_id)
    print(f"{output}: {model.config.name} after step {checkpoint.step}, for transformers")
    return 0


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", type=Path, help="or a folder that `litespark export` wrote")
    parser.add_argument("--prompt", required=True, help="text to continue")
    parser.add_argument("--tokens", type=number(Count), default=96, help="at most so many new tokens (%(default)s)")
    parser.add_argument(
        "--temperature", type=number(NotNegative), default=0.8, help="0: the likeliest token (%(default)s)"
    )
    parser.add_argument("--top-k", type=number(Count), help="sample among the k likeliest")
    parser.add_argument("--top-p", type=number(Likeliest), help="sample among the likeliest that reach probability p")
    parser.add_argument("--seed", type=number(Seed), default=0, help="of the sampling (%(default)s)")


def _generate(options: argparse.Namespace) -> int:
    import torch

    from litespark.data.tokenizer import Tokenizer
    from litespark.device import find
    from litespark.experiment.load import load_for_generation
    from litespark.models.generate import generate
    from litespark.models.llama.huggingface_config import end_ids

    model, folder = load_for_generation(options.run)
    model.to(find("auto"))
    tokenizer = Tokenizer.load(folder)
    prompt = tokenizer.encode_prompt(_typed(options.prompt))
    ends = end_ids(folder) if (folder / "config.json").is_file() else []
    ids = generate(
        model,
        torch.tensor([prompt], device=model.head_weight.device),
        options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        eos_id=[tokenizer.eos_id, *ends],
        vocab_size=tokenizer.vocab_size,
        seed=options.seed,
    )
    # decoded as one text, since a tokenizer may treat the beginning of a text differently
    print(tokenizer.decode(ids[0].tolist()).removeprefix(tokenizer.decode(prompt)))
    return 0


def _typed(word: str) -> str:
    """A text of the command line as it was typed: its bytes are UTF-8 also where the locale has other letters."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


REPORT = Command("write the report of a run, or several runs side by side", _report_arguments, _report)
EXPORT = Command("write a trained model as a Hugging Face folder", _export_arguments, _export)
GENERATE = Command("continue a text with a trained model", _generate_arguments, _generate)
