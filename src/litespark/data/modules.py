"""The data module of a config, and the prepared folder that it serves."""

from pathlib import Path

from litespark.data.config import PrepareConfig, SourceConfig, SyntheticConfig
from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.prepare import ExamplesLookup
from litespark.data.examples.prepare import prepare as prepare_examples
from litespark.data.examples.stream import ExampleDataModule
from litespark.data.prepare.prepare import Lookup, prepare
from litespark.data.stream.modules import SequenceDataModule, SyntheticDataModule, TokenDataModule
from litespark.mesh import Mesh


def prepared_folder(config: SourceConfig, known: Lookup | ExamplesLookup | None = None) -> Path | str:
    """The prepared folder of a config, whole; prepared first where that has not been done."""
    if isinstance(config, ExamplesConfig):
        return prepare_examples(config, existing=known if isinstance(known, ExamplesLookup) else None)
    assert isinstance(config, PrepareConfig)
    place = prepare(config, existing=known if isinstance(known, Lookup) else None)
    if place is None:
        raise ValueError(
            f"data.nodes={config.nodes}: this node has prepared its part and others have not ended yet, expected the "
            "whole data set. Start again when `litespark prepare` has ended on all nodes."
        )
    return place


def build_data_module(
    config: SourceConfig | SyntheticConfig,
    *,
    seed: int,
    mesh: Mesh | None = None,
    place: Path | str | None = None,
    last_ids: bool = False,
) -> SequenceDataModule:
    """The data module of a config; `place` is its prepared folder, None: it is prepared first where it has not been.

    `last_ids`: whether the last id of an example is an input too.
    """
    if isinstance(config, SyntheticConfig):
        return SyntheticDataModule(config, seed=seed, mesh=mesh)
    if isinstance(config, ExamplesConfig):
        place = place or prepared_folder(config)
        return ExampleDataModule(place, config, seed=seed, mesh=mesh, last_ids=last_ids)
    return TokenDataModule(place or prepared_folder(config), config, seed=seed, mesh=mesh)
