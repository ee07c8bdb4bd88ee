"""Records that are left out of a data set of examples: counted by reason, and refused where they are too many."""

from collections import Counter

from litespark.data.dropped import DroppedDocuments
from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.encode import EXPECTED, TOO_LONG
from litespark.data.examples.messages import BadExampleError
from litespark.data.examples.records import COPY, Record
from litespark.data.text.document import ONLY_DOMAIN
from litespark.data.text.reader import READING

PROMPT_IN_VALIDATION = "prompt_in_validation"
"""Why a record of the source's training split is left out."""
_LENGTH, _COPY = f"length/{TOO_LONG}", f"{READING}{COPY}"
_RULES = {TOO_LONG: _LENGTH, PROMPT_IN_VALIDATION: f"split/{PROMPT_IN_VALIDATION}"}
_JUDGED_OVER = 10_000


class LeftOut:
    """`dropped` goes into the manifest: `reading/REASON` for what is bad or repeated, `length/too_long` for what does
    not fit, `split/prompt_in_validation` for what is held out."""

    def __init__(self, config: ExamplesConfig) -> None:
        self.config = config
        self.dropped = DroppedDocuments()
        self.kept = 0
        self._first: dict[str, str] = {}
        """What is wrong with the first record of each reason, with its place."""

    def add(self, split: str, record: Record, error: BadExampleError) -> None:
        """Count one; ValueError: they are too many already."""
        rule = _RULES.get(error.reason, f"{READING}{error.reason}")
        text = record.excerpt or str(record.content)
        size = record.size or len(text.encode("utf-8", "replace"))
        self.dropped.add(
            split, ONLY_DOMAIN, rule, size=size, tokens=None, file=record.file, place=record.place, text=text
        )
        self._first.setdefault(rule, f"{record.file}, record {record.place}: {error}")
        if self._bad > self.config.max_bad_share * max(self._seen, _JUDGED_OVER):
            raise self._too_many()

    def require_few(self) -> None:
        """Raise ValueError where a larger share is bad than `data.max_bad_share`."""
        if self._bad > self.config.max_bad_share * self._seen:
            raise self._too_many()

    def nothing_in(self, split: str) -> ValueError:
        if (long := self.dropped.documents(_LENGTH)) and not self.kept:
            return ValueError(
                f"data.seq_len={self.config.seq_len}: got {long} examples, all of them longer, expected room for them "
                f"({self._first[_LENGTH]}). Raise data.seq_len, or set data.max_prompt_length"
            )
        return ValueError(
            f"data.source={self.config.source}: got no example for {split} (left out: {self._reasons() or 'none'}), "
            f"expected examples of two prompts at least, since one is held out, with {EXPECTED[self.config.format]}. "
            "Name a source with more, or raise data.validation_fraction or data.seq_len"
        )

    def partly(self, absent: dict[str, int]) -> ValueError:
        named = ", ".join(f"no {name} in {count}" for name, count in absent.items())
        return ValueError(
            f"data.source={self.config.source}: got {named} of {self.kept} examples, expected it in all or in none. "
            "Mend or leave out these records, or take it out of the others"
        )

    @property
    def _bad(self) -> int:
        return self.dropped.documents(READING) - self.dropped.documents(_COPY)

    @property
    def _seen(self) -> int:
        return self.kept + self.dropped.documents()

    def _reasons(self) -> str:
        return ", ".join(f"{rule.partition('/')[2]}: {count}" for rule, count in self.dropped.by_rule().items())

    def _too_many(self) -> ValueError:
        counts = self.dropped.by_rule().items()
        reasons = Counter({rule: count for rule, count in counts if rule.startswith(READING) and rule != _COPY})
        first = "; ".join(self._first[rule] for rule, _ in reasons.most_common(3))
        share = self.config.max_bad_share
        return ValueError(
            f"{self._bad} of {self._seen} records are no examples of data.format={self.config.format} "
            f"({self._reasons()}); data.max_bad_share={share} allows {share:.2%}. {first}. Mend or leave out these "
            "records, choose the data.format that they have, or raise data.max_bad_share"
        )
