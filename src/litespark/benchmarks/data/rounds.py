"""The rounds of `litespark bench data`: each measurement in a process of its own, in turns."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Protocol

from litespark.benchmarks.data import corpus as corpora
from litespark.benchmarks.data.preparation import config_values
from litespark.benchmarks.data.process import cores as usable_cores
from litespark.benchmarks.provenance import without_folders
from litespark.config.settings import settings
from litespark.data.config import PrepareConfig
from litespark.data.selection.config import SelectionConfig
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


class Launch(Protocol):
    """Runs one process; `litespark.benchmarks.data.launch.launch` is the real one."""

    def __call__(
        self, request: dict[str, Any], folder: Path, *, cores: int, timeout: float, program: Sequence[str] = ...
    ) -> dict[str, Any]: ...


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
        self, config: PrepareConfig, settings: DataSettings, scratch: Path, launch: Launch, say: Callable[[str], None]
    ) -> None:
        self.config = config
        self.settings = settings
        self.scratch = scratch
        self.launch = launch
        self.say = say
        self.cores = usable_cores()
        self.tokenizer = scratch / TOKENIZER
        self.litgpt_python = litgpt_interpreter(settings)
        self._prepared = 0

    def take(self, record: DataRecord, save: Callable[[], None]) -> None:
        """All rounds."""
        for number in range(record.rounds):
            self._prepare_round(record, number)
            save()
        self._memory(record)
        save()
        whole = replace(self._preparing(corpora.FOUR_TIMES, self.cores), chunk_tokens=_STREAM_CHUNK_TOKENS)
        whole = replace(whole, unit_bytes=self.config.unit_bytes)
        self.say("preparing what is streamed")
        folders = [self._prepare(each, self.cores, keep=True)["folder"] for each in (
            replace(whole, domain_field=None), whole)]  # fmt: skip
        for number in range(record.rounds):
            self._stream_round(record, number, *folders)
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

    def _prepare(self, config: PrepareConfig, cores: int, *, keep: bool = False) -> dict[str, Any]:
        self._prepared += 1
        config = replace(config, root=str(self.scratch / f"prepared-{self._prepared}"))
        request = {"measure": "prepare", "arguments": {"config": config_values(config), "keep": keep}}
        return self._launch(request, cores)

    def _launch(self, request: dict[str, Any], cores: int, **more: Any) -> dict[str, Any]:
        return self.launch(request, self.scratch / "process", cores=cores, timeout=self.settings.timeout, **more)

    def _prepare_round(self, record: DataRecord, number: int) -> None:
        """The bare tokenizer and ours on one core and on all, and litgpt on all; backwards every second round."""
        ours: tuple[Variant, ...] = (ENCODE, PREPARE)
        turns: list[tuple[Variant, int]] = [(each, cores) for cores in sorted({1, self.cores}) for each in ours]
        turns += [(LITGPT, self.cores)] if self.litgpt_python is not None else []
        for position, (variant, cores) in enumerate(turns if number % 2 == 0 else turns[::-1]):
            self.say(f"round {number + 1} of {record.rounds}: {variant} on {cores} cores")
            if variant == LITGPT:
                answer = self._litgpt(record)
            elif variant == ENCODE:
                arguments = {"tokenizer": str(self.tokenizer / FILE), "source": str(self.scratch / corpora.ONCE)}
                answer = self._launch({"measure": "encode", "arguments": arguments}, cores)
            else:
                config = self._preparing(corpora.ONCE, cores)
                if cores > 1:
                    config = replace(config, unit_bytes=record.unit_bytes)
                answer = self._prepare(config, cores)
            if answer is None:
                continue
            record.preparation.append(
                PreparationRun(
                    variant=variant,
                    cores=cores,
                    round=number,
                    position=position,
                    **{name: answer[name] for name in ("seconds", "cpu_seconds", "tokens", "peak_bytes")},
                )
            )

    def _memory(self, record: DataRecord) -> None:
        """Peaks of two corpora with the same settings."""
        for factor, corpus in ((1, corpora.ONCE), (corpora.FACTOR, corpora.FOUR_TIMES)):
            self.say(f"memory of {factor} times the corpus")
            config = replace(self._preparing(corpus, self.cores), unit_bytes=record.unit_bytes)
            answer = self._prepare(config, self.cores)
            record.memory.append(
                MemoryRun(factor, **{name: answer[name] for name in ("seconds", "tokens", "peak_bytes")})
            )

    def _stream_round(self, record: DataRecord, number: int, one_domain: str, domains: str) -> None:
        """Every case, in one process; backwards every second round."""
        turns = CASES if number % 2 == 0 else CASES[::-1]
        self.say(f"round {number + 1} of {record.rounds}: streaming")
        cases = [{"reader": reader, "workers": workers, "shuffle": shuffle} for reader, workers, shuffle in turns]
        configs = [
            config_values(replace(self.config, source=folder, tokenizer=None)) for folder in (one_domain, domains)
        ]
        arguments = {"config": configs[0], "domains": configs[1], "cases": cases, "seconds": self.settings.seconds}
        answers = self._launch({"measure": "stream", "arguments": arguments}, self.cores)
        for position, (turn, answer) in enumerate(zip(turns, answers["cases"], strict=True)):
            record.streaming.append(StreamRun(*turn, number, position, **answer))

    def _litgpt(self, record: DataRecord) -> dict[str, Any] | None:
        """litgpt's answer; what goes wrong in somebody else's program is a reason, not the end of the benchmark."""
        self._prepared += 1
        request = {
            "source": str(self.scratch / corpora.ONCE / "train"),
            "output": str(self.scratch / f"litgpt-{self._prepared}"),
            "tokenizer": str(self.tokenizer),
        }
        assert self.litgpt_python is not None
        try:
            answer = self._launch(request, self.cores, program=(self.litgpt_python, str(LITGPT_SCRIPT)))
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
