"""Optional libraries, imported where they are used; without one, the setting that needs it is refused."""

from importlib import import_module
from types import ModuleType

# what each comes with: `pip install 'litespark[EXTRA]'`
_EXTRAS = {
    "datasketch": "selection",
    "datatrove": "selection",
    "py3langid": "selection",
    "pyarrow": "parquet",
    "scipy": "selection",
    "sentencepiece": "sentencepiece",
    "spacy": "selection",
    "transformers": "huggingface",
}


def library(name: str, *, setting: str) -> ModuleType:
    """An optional library; ValueError where it cannot be imported, for the `setting` that needs it."""
    top = name.partition(".")[0]
    extra = _EXTRAS[top]
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{setting} needs {top}, which cannot be imported here ({error}); "
            f"run pip install 'litespark[{extra}]', or take the setting back"
        ) from error
