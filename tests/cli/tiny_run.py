"""A text of a few thousand words, and overrides for a run on it that takes a second."""

import random
from pathlib import Path

WORDS = "the quick brown fox jumps over lazy dogs while seven small birds sing about rain and light in spring".split()


def write_text(path: Path) -> Path:
    choose = random.Random(0)
    path.write_text("\n\n".join(" ".join(choose.choice(WORDS) for _ in range(60)) for _ in range(60)))
    return path


SMALL = dict(
    word.split("=")
    for word in (
        *"model.vocab_size=300 data.vocab_size=300 data.seq_len=32 data.micro_batch_size=2".split(),
        *"data.validation_sequences=4 trainer.global_batch_size=4 trainer.accelerator=cpu".split(),
        *"model.hidden_size=32 model.num_layers=1 model.num_heads=2 model.num_kv_heads=1".split(),
        *"model.intermediate_size=64 budget.tokens=null budget.steps=4 metrics.probe_seconds=0".split(),
        *"callbacks.report=false callbacks.progress=false callbacks.sample_tokens=4".split(),
    )
)


def tiny(folder: Path, **more: object) -> list[str]:
    """Overrides for runs below `folder`; `more` are further ones, with `__` for the dots."""
    text = folder / "text.txt"
    if not text.exists():
        write_text(text)
    places = {"data.source": text, "paths.data": folder / "data", "paths.logs": folder / "logs"}
    values = places | SMALL | {name.replace("__", "."): value for name, value in more.items()}
    return [f"{name}={value}" for name, value in values.items()]
