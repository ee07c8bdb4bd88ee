"""Which rule refuses a document, for the rules that look at one document alone; `duplicates` compares them.

Rule names as the manifest has them behind `selection/`: `gopher_repetition/REASON`, `gopher_quality/REASON`,
`c4/REASON`, `fineweb/REASON` with datatrove's reasons, `language`, `contaminated`, `exact_duplicate`, `near_duplicate`.
"""

from importlib import metadata
from typing import Any

from litespark.atomic import content_hash
from litespark.data.libraries import library
from litespark.data.select.config import SelectionConfig
from litespark.data.select.duplicates import banding
from litespark.data.select.evaluation_texts import evaluation_files, evaluation_texts
from litespark.data.select.rules import DecontaminationRule, LanguageRule, QualityRule
from litespark.data.text.document import Document


class Selector:
    """The rules of a config that look at one document alone, in the order in which the settings name them."""

    def __init__(self, config: SelectionConfig) -> None:
        self._rules: list[QualityRule | LanguageRule | DecontaminationRule] = [*_without_texts(config)]
        if config.decontaminate:
            self._rules.append(DecontaminationRule(evaluation_texts(config.decontaminate), config.decontaminate_words))

    def refusal(self, document: Document) -> str | None:
        return next((name for rule in self._rules if (name := rule.refusal(document))), None)


def _without_texts(config: SelectionConfig) -> list[QualityRule | LanguageRule]:
    languages = [LanguageRule(config.languages, config.language_threshold)] if config.languages else []
    return [*map(QualityRule, config.quality), *languages]


def check_selection(config: SelectionConfig) -> None:
    """Raise the ValueError, before any text is read, for a library, language or text that is not there."""
    _without_texts(config)
    if config.decontaminate:
        library("datatrove.utils.text", setting="data.selection.decontaminate")
        evaluation_files(config.decontaminate)
    if config.near_duplicates:
        library("datatrove.utils.text", setting="data.selection.near_duplicates")
        banding(config)


def library_versions(config: SelectionConfig) -> dict[str, str]:
    """Of the libraries that a selection uses; with another version its documents may be others."""
    used = {
        "datatrove": bool(config.quality or config.decontaminate or config.near_duplicates),
        "spacy": bool(config.quality),
        "py3langid": bool(config.languages),
        "datasketch": config.near_duplicates,
    }
    return {name: metadata.version(name) for name, needed in used.items() if needed}


def selection_identity(config: SelectionConfig) -> dict[str, Any]:
    """What decides a selection beside its settings: versions of the libraries, hashes of the evaluation texts."""
    check_selection(config)
    identity: dict[str, Any] = dict(library_versions(config))
    if config.decontaminate:
        files, _ = evaluation_files(config.decontaminate)
        identity["evaluation_texts"] = [[path.name, content_hash(path)] for path, _ in files]
    if config.near_duplicates:
        identity["bands"], identity["rows_of_a_band"] = banding(config)
    return identity
