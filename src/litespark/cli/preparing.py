"""`litespark prepare`: text to tokens, and the check of a folder that it wrote."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from litespark.cli.configs import Overrides, composed_parts

_NAMED_FILES = 10
_CHECK = "Verify a prepared folder or address instead, hashes included"


def prepare(overrides: Overrides, *, check: Annotated[str | None, Option(metavar="FOLDER", help=_CHECK)] = None) -> int:
    """Turn text into tokens, or check a prepared folder."""
    if check is not None:
        if overrides:
            raise ValueError(f"--check {check} takes no overrides, got {' '.join(overrides)}")
        return _check_prepared(check)

    from litespark.data.config import PrepareConfig
    from litespark.data.examples import prepare as examples
    from litespark.data.examples.config import ExamplesConfig
    from litespark.data.manifest import Manifest
    from litespark.data.prepare import prepare as preparation

    config = composed_parts(overrides).data
    if isinstance(config, ExamplesConfig):
        prepared = examples.prepare(config)
        print(_described(prepared, Manifest.read(prepared)))
        return 0
    if not isinstance(config, PrepareConfig):
        raise ValueError("this data is made up while training; there is nothing to prepare. Set data.source to a text")
    folder = preparation.prepare(config)
    if folder is None:
        print(f"node {config.node_rank} of {config.nodes} has done its share; the data set is finished by the last")
    else:
        print(_described(folder, Manifest.read(folder)))
    return 0


def _check_prepared(folder: str) -> int:
    from litespark.data.prepare.check import check_prepared

    manifest, extra = check_prepared(folder)
    print(_described(folder, manifest))
    files = sum(counts.chunk_files for counts in manifest.splits.values())
    print(f"sound: the tokenizer and {files} chunk files have the sizes and hashes that the manifest states")
    if extra:
        more = f" and {len(extra) - _NAMED_FILES} more" if len(extra) > _NAMED_FILES else ""
        print(f"not of the data set, and read by nobody: {', '.join(extra[:_NAMED_FILES])}{more}")
    return 0


def _described(folder: Path | str, manifest: Any) -> str:
    from litespark.reports.prepared_data import PreparedData, in_terminal

    try:
        return f"{folder}\n\n{in_terminal(PreparedData.of(manifest))}"
    except ValueError as error:  # a manifest whose numbers contradict each other
        raise ValueError(f"{folder}: {error}; prepare the data again") from error
