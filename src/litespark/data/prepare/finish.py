"""The end of a preparation: the results of all units, in their order, become indexes and last the manifest."""

import math

import numpy as np
from numpy.typing import NDArray

from litespark import __version__
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import DomainCounts, Manifest, SplitCounts
from litespark.data.prepare.chunk_writer import INDEX, domain_folder, index_content
from litespark.data.prepare.plan import Plan
from litespark.data.prepare.same_text import write_source
from litespark.data.prepare.split_writer import refuse_many_domains, tokens_of_a_chunk
from litespark.data.prepare.work import DomainResult, UnitResult, Work
from litespark.data.text.reader import require_few_bad
from litespark.data.text.splits import TRAIN, VALIDATION
from litespark.data.tokenizer import Tokenizer


def finish(plan: Plan, tokenizer: Tokenizer) -> Manifest:
    """Write LitData's indexes and the manifest from what all units left; the same bytes from any process.

    ValueError: too many bad documents or domains over all units, an empty split, units of different tokenizers.
    """
    whole = _merged(plan, tokenizer)
    manifest = _manifest(plan, whole, tokenizer)
    require_few_bad_in(manifest, plan.config.max_bad_share)
    refuse_many_domains({name for named in whole.domains.values() for name in named}, plan.config.domain_field)
    for split, named in whole.domains.items():
        if not named:
            if split == TRAIN and whole.dropped.documents("selection/"):
                raise _nothing_left(whole.dropped)
            raise nothing_in(plan.config.source, f"its {split} split")
    for split, named in whole.domains.items():
        for name, domain in named.items():
            size = tokens_of_a_chunk(plan.config)
            index = index_content(domain.chunks, vocab_size=tokenizer.vocab_size, chunk_tokens=size)
            plan.storage.write(f"{split}/{domain_folder(name)}/{INDEX}", index)
    _remove_partial_files(plan)
    write_source(plan.storage, plan, whole.hashes)
    manifest.write(plan.storage)
    return manifest


def require_few_bad_in(manifest: Manifest, max_bad_share: float) -> None:
    """Raise ValueError where a data set left out more bad documents than is allowed now."""
    kept = sum(counts.documents for counts in manifest.splits.values())
    require_few_bad(kept, manifest.dropped, max_bad_share)


def nothing_in(source: str, what: str) -> ValueError:
    return ValueError(
        f"data.source={source}: {what} holds no document with text in it; expected at least two lines of text. Set "
        "data.source to a file or folder with more text"
    )


def _nothing_left(dropped: DroppedDocuments) -> ValueError:
    rules = ", ".join(f"{rule}: {count}" for rule, count in dropped.by_rule().items() if rule.startswith("selection/"))
    return ValueError(
        f"data.selection left out all {dropped.documents('selection/')} training documents ({rules}); expected it to "
        "leave some. Choose fewer rules, or lower their thresholds."
    )


def _merged(plan: Plan, tokenizer: Tokenizer) -> UnitResult:
    work = Work(plan.storage)
    frequencies = {split: np.zeros(tokenizer.vocab_size, dtype=np.int64) for split in (TRAIN, VALIDATION)}
    whole = UnitResult(tokenizer.hash, {TRAIN: {}, VALIDATION: {}}, DroppedDocuments(), [], frequencies)
    for unit in plan.units:
        result = work.result(unit.number)
        if result.tokenizer != whole.tokenizer:
            raise ValueError(
                f"{plan.place}: node {plan.node_of(unit.number)} encoded unit {unit.number} with another tokenizer "
                f"(hash {result.tokenizer}, expected {whole.tokenizer}), though the same text was to give the same. "
                "Install the same version of `tokenizers` on all nodes, delete the folder and prepare the data again."
            )
        whole.dropped.merge(result.dropped)
        whole.hashes += result.hashes
        for split, counts in result.frequencies.items():
            frequencies[split] += counts
        for split, named in result.domains.items():
            for name, domain in named.items():
                whole.domains[split].setdefault(name, DomainResult()).add(domain)
    return whole


def _manifest(plan: Plan, whole: UnitResult, tokenizer: Tokenizer) -> Manifest:
    config = plan.config
    return Manifest(
        name=plan.name,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        bos_id=tokenizer.bos_id,
        tokenizer_hash=tokenizer.hash,
        token_bytes=tokenizer.token_bytes(),
        splits={
            split: SplitCounts({name: _counts(name, named[name]) for name in sorted(named)})
            for split, named in whole.domains.items()
        },
        unigram_entropy=unigram_entropy(whole.frequencies[TRAIN], whole.frequencies[VALIDATION]),
        settings={"source": config.source, **config.preparation()},
        dropped=whole.dropped,
        code_version=__version__,
        packing=config.packing,
        seq_len=config.seq_len if config.packing == "best_fit" else None,
        listing=plan.listing.to_json(),
    )


def _counts(name: str, domain: DomainResult) -> DomainCounts:
    return DomainCounts(
        folder=domain_folder(name),
        documents=domain.documents,
        tokens=domain.tokens,
        bytes=domain.bytes,
        text_bytes=domain.text_bytes,
        lengths=[domain.lengths[power] for power in range(max(domain.lengths) + 1)],
        chunks=[chunk.record for chunk in domain.chunks],
    )


def unigram_entropy(training: NDArray[np.int64], validation: NDArray[np.int64]) -> float:
    nats = math.log(int(training.sum()) + training.size) - np.log(training + 1.0)
    return float(validation @ nats / max(validation.sum(), 1))


def _remove_partial_files(plan: Plan) -> None:
    """Remove what killed processes had begun to write; no process writes any more."""
    if plan.storage.remote:  # there a file appears whole or not at all
        return
    for pattern in (".*.partial", f"{TRAIN}/*/.*.partial", f"{VALIDATION}/*/.*.partial"):
        for partial in plan.storage.local.glob(pattern):
            partial.unlink(missing_ok=True)
