"""The rounds of `litespark bench data`: each measurement in a process of its own, in turns."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from litespark.benchmarks.child_process import call
from litespark.benchmarks.data import corpus as corpora
from litespark.benchmarks.provenance import without_folders
from litespark.benchmarks.session import turns
from litespark.config.settings import settings
from litespark.data.config import PrepareConfig
from litespark.data.prepare.workers import usable_cores
from litespark.data.select.config import SelectionConfig
from litespark.data.tokenizer_files import FILE
from litespark.metrics.records.data import (
    ENCODE,
    LITDATA,
    LITGPT,
    OURS,
    OURS_DOMAINS,
    PREPARE,
    DataRecord,
    MemoryRun,
    PreparationRun,
    Reader,
    StreamRun,
    Variant,
)
from litespark.ranges import Range, Repeats, Seconds

LITGPT_SCRIPT = Path(__file__).with_name("litgpt_script.py")
TOKENIZER = "tokenizer"
_PREPARATION = "litespark.benchmarks.data.preparation"
# several to the streamed corpus
_STREAM_CHUNK_TOKENS = 1 << 22
# (reader, workers, shuffle) of what is streamed in a round
CASES: tuple[tuple[Reader, int, bool], ...] = (
    (OURS, 0, True),
    (LITDATA, 0, True),
    (OURS, 0, False),
    (LITDATA, 0, False),
    (OURS_DOMAINS, 0, True),
    (OURS, 1, True),
    (LITDATA, 1, True),
    (OURS, 2, True),
    (LITDATA, 2, True),
)


@settings("--")
class DataSettings:
    """How it is run.

    Attributes:
        rounds: of preparation and of streaming.
        megabytes: of training text of the smaller corpus, 10^6 bytes each.
        seconds: that each stream is read for.
        litgpt_python: an interpreter that has litgpt; None: this one, where it has.
        timeout: seconds after which a single measurement is ended.
    """

    rounds: Repeats = 3
    megabytes: Annotated[float, Range(above=0, at_most=1e6)] = 24.0
    seconds: Seconds = 2.0
    litgpt_python: str | None = None
    timeout: Seconds = 900.0


def litgpt_interpreter(settings: DataSettings) -> str | None:
    """The Python that has litgpt, as far as that can be told without starting it."""
    if settings.litgpt_python is not None:
        return settings.litgpt_python
    return sys.executable if find_spec("litgpt") is not None else None


class Rounds:
    """The measurements of one benchmark; everything they write is below `scratch`."""

    def __init__(
        self,
        config: PrepareConfig,
        settings: DataSettings,
        scratch: Path,
        ask: Callable[..., Any],
        say: Callable[[str], None],
    ) -> None:
        self.config = config
        self.settings = settings
        self.scratch = scratch
        self.ask = ask
        self.say = say
        self.cores = usable_cores()
        self.tokenizer = scratch / TOKENIZER
        self.litgpt_python = litgpt_interpreter(settings)
        self._folders = 0

    def take(self, record: DataRecord, save: Callable[[], None]) -> None:
        """All rounds."""
        ours: tuple[Variant, ...] = (ENCODE, PREPARE)
        variants: list[tuple[Variant, int]] = [
            (variant, cores) for cores in sorted({1, self.cores}) for variant in ours
        ]
        variants += [(LITGPT, self.cores)] if self.litgpt_python is not None else []
        for number, position, (variant, cores) in turns(variants, record.rounds):
            self.say(f"round {number + 1} of {record.rounds}: {variant} on {cores} cores")
            answer = self._preparation(variant, cores, record)
            if answer is not None:
                figures = {name: answer[name] for name in ("seconds", "cpu_seconds", "tokens", "peak_bytes")}
                record.preparation.append(
                    PreparationRun(variant=variant, cores=cores, round=number, position=position, **figures)
                )
            if position == len(variants) - 1:
                save()
        self._memory(record)
        save()
        self._streaming(record, save)

    def _preparation(self, variant: Variant, cores: int, record: DataRecord) -> dict[str, Any] | None:
        if variant == LITGPT:
            return self._litgpt(record)
        if variant == ENCODE:
            request = {"tokenizer": str(self.tokenizer / FILE), "source": str(self.scratch / corpora.ONCE)}
            return self._measured(f"{_PREPARATION}:encode", request, cores)
        config = self._preparing(corpora.ONCE, cores)
        return self._prepare(replace(config, unit_bytes=record.unit_bytes) if cores > 1 else config, cores)

    def _memory(self, record: DataRecord) -> None:
        """Peaks of two corpora with the same settings."""
        for factor, corpus in ((1, corpora.ONCE), (corpora.FACTOR, corpora.FOUR_TIMES)):
            self.say(f"memory of {factor} times the corpus")
            config = replace(self._preparing(corpus, self.cores), unit_bytes=record.unit_bytes)
            answer = self._prepare(config, self.cores)
            figures = {name: answer[name] for name in ("seconds", "tokens", "peak_bytes")}
            record.memory.append(MemoryRun(factor=factor, **figures))

    def _streaming(self, record: DataRecord, save: Callable[[], None]) -> None:
        """Every case, in one process a round."""
        self.say("preparing what is streamed")
        whole = replace(
            self._preparing(corpora.FOUR_TIMES, self.cores),
            chunk_tokens=_STREAM_CHUNK_TOKENS,
            unit_bytes=self.config.unit_bytes,
        )
        configs = []
        for config in (replace(whole, domain_field=None), whole):
            folder = self._prepare(config, self.cores, keep=True)["folder"]
            configs.append(asdict(replace(self.config, source=folder, tokenizer=None)))
        by_round: dict[int, list[tuple[int, tuple[Reader, int, bool]]]] = {}
        for number, position, case in turns(CASES, record.rounds):
            by_round.setdefault(number, []).append((position, case))
        for number, cases in by_round.items():
            self.say(f"round {number + 1} of {record.rounds}: streaming")
            request = {
                "config": configs[0],
                "domains": configs[1],
                "cases": [dict(zip(("reader", "workers", "shuffle"), case, strict=True)) for _, case in cases],
                "seconds": self.settings.seconds,
            }
            answers = self._measured("litespark.benchmarks.data.streaming:stream", request, self.cores)
            for (position, (reader, workers, shuffle)), answer in zip(cases, answers, strict=True):
                record.streaming.append(
                    StreamRun(
                        reader=reader, workers=workers, shuffle=shuffle, round=number, position=position, **answer
                    )
                )
            save()

    def _preparing(self, corpus: str, cores: int) -> PrepareConfig:
        """What prepares a corpus on so many cores, everything in it and nothing left out."""
        return replace(
            self.config,
            source=str(self.scratch / corpus),
            root=str(self.scratch / "prepared"),
            tokenizer=str(self.tokenizer),
            eos_token=None,
            name="bench",
            text_field="text",
            domain_field="meta.redpajama_set_name",
            max_bytes=None,
            max_files=None,
            packing="concat",
            selection=SelectionConfig(),
            processes=cores,
            nodes=1,
            node_rank=0,
        )

    def _new_folder(self, name: str) -> str:
        self._folders += 1
        return str(self.scratch / f"{name}-{self._folders}")

    def _prepare(self, config: PrepareConfig, cores: int, *, keep: bool = False) -> dict[str, Any]:
        request = {"config": asdict(replace(config, root=self._new_folder("prepared"))), "keep": keep}
        answer: dict[str, Any] = self._measured(f"{_PREPARATION}:prepare_corpus", request, cores)
        return answer

    def _measured(self, function: str, request: dict[str, Any], cores: int) -> Any:
        return self._answer(call(function), request, cores)

    def _answer(self, program: Sequence[str], request: dict[str, Any], cores: int) -> Any:
        # one thread of linear algebra: there is none in the data, and idle pools only disturb
        environment = {"RAYON_NUM_THREADS": str(cores), "OMP_NUM_THREADS": "1"}
        return self.ask(
            program,
            {**request, "cores": cores},
            self.scratch / "process",
            seconds=self.settings.timeout,
            environment=environment,
        )

    def _litgpt(self, record: DataRecord) -> dict[str, Any] | None:
        """litgpt's answer; what goes wrong in somebody else's program is a reason, not the end of the benchmark."""
        if self.litgpt_python is None:
            return None
        request = {
            "source": str(self.scratch / corpora.ONCE / "train"),
            "output": self._new_folder("litgpt"),
            "tokenizer": str(self.tokenizer),
        }
        try:
            answer: dict[str, Any] = self._answer((self.litgpt_python, str(LITGPT_SCRIPT)), request, self.cores)
        except (ValueError, OSError) as error:
            self.say(f"litgpt is left out: {error}")
            self.litgpt_python = None
            record.litgpt, record.litgpt_reason = None, without_folders([str(error)])[0]
            record.preparation = [run for run in record.preparation if run.variant != LITGPT]
            return None
        finally:
            shutil.rmtree(request["output"], ignore_errors=True)
        record.litgpt, record.litgpt_reason = f"{answer['version']} with LitData {answer['litdata']}", None
        return answer
