"""A sentencepiece model as a tokenizer of `tokenizers`, with the same ids, or not at all: transformers 5.24 makes other
ids of nine of ten lines of source code. Each setting of a model is converted or refused:

- BPE joins the neighbours whose joint piece has the highest score, so the rank of a pair is the score of its piece.
- Texts are cut before runs of `▁` where no piece reaches across, which changes no id and lets words be remembered.
- A model that normalises (`nmt_nfkc`, ...) is refused: `tokenizers` applies the same table of replacements to whole
  graphemes, and loses an accent behind a character that the table replaces (0.23).

Unigram models have ties: ways through a text whose scores have the same sum. sentencepiece leaves them to the rounding
of its 32-bit sums; here the sums have 64 bits, so the other way may be taken.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from litespark.data.libraries import library

SPACE = "▁"
SUFFIX = ".model"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_UNIGRAM, _BPE = 1, 2
# so low that no path through a text takes it: control pieces are in the vocabulary, but no part of any text
_NEVER = -1e7
_PROBES = 200
# sums of 32-bit numbers, each rounded to 24 binary digits
_TIE = 2.0**-22
_TEXTS = (
    "",
    " ",
    "The quick brown fox\njumps over\t13 lazy dogs.\r\n",
    "  two spaces before,  between   and after  ",
    "def f(x):\n        return x  # eight spaces\n",
    "a" * 50 + "=" * 31 + "-" * 17 + " " * 23 + "\n" * 9 + "▁" * 7,
    "ünïcode 漢字 かな 한국어 🙂👩‍👩‍👧 e\u0301 ﬁ ½ Ａ １ ™ \u00a0 \u200b \u3000 \ufeff x",
    "<s> </s> <unk> <pad> <0x0A> ▁the ▁▁ <0xFF>",
    "\x01\x1b\x7f\x85\u2028\U000e0001\U0010fffd",
)


def load_sentencepiece(path: Path) -> tuple[tokenizers.Tokenizer, str | None, str | None]:
    """The tokenizer of a `.model` file, and the texts of its EOS and BOS as far as the model has them.

    ValueError: sentencepiece is not installed, or not a model, or a few hundred texts do not get the same ids.
    """
    sentencepiece, description = (
        library(module, setting=f"data.tokenizer={path}")
        for module in ("sentencepiece", "sentencepiece.sentencepiece_model_pb2")
    )
    try:
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
        model = description.ModelProto.FromString(path.read_bytes())
    except Exception as error:  # it has no class of its own for what is no model
        raise ValueError(f"data.tokenizer={path} is not a sentencepiece model: {error}. Name one.") from error
    if (reason := _not_convertible(model)) is not None:
        raise ValueError(
            f"data.tokenizer={path} {reason}, which cannot be converted with the same ids. Name another model, or a "
            "tokenizer.json that somebody converted, whose ids may differ in such cases."
        )
    converted = _convert(model)
    _compare(path, theirs, converted, model)
    texts = (model.pieces[number].piece if number >= 0 else None for number in (theirs.eos_id(), theirs.bos_id()))
    return (converted, *texts)  # type: ignore[return-value]  # two of them


def _not_convertible(model: Any) -> str | None:
    normalizer, trainer = model.normalizer_spec, model.trainer_spec
    normal = set(_texts_of(model, _NORMAL))
    types = {piece.type for piece in model.pieces}
    # `tokenizers` normalises such symbols like texts, and one that becomes empty would match everywhere
    changed = _normalizer(normalizer.remove_extra_whitespaces, normalizer.add_dummy_prefix).normalize_str
    symbols = _texts_of(model, _USER_DEFINED)
    found = {
        "is neither BPE nor unigram": trainer.model_type not in (_UNIGRAM, _BPE),
        f"normalises texts by {normalizer.name!r}": bool(normalizer.precompiled_charsmap),
        "does not write spaces as ▁": not normalizer.escape_whitespaces,
        "has ▁ behind words": trainer.treat_whitespace_as_suffix,
        "has pieces that it does not use": _UNUSED in types,
        # sentencepiece gives them a score there, rather than cutting the text at them
        "is a unigram model with symbols of its user": trainer.model_type == _UNIGRAM and bool(symbols),
        "has symbols of its user that its treatment of spaces changes": any(changed(text) != text for text in symbols),
        "has no id for unknown characters": _UNKNOWN not in types,
        # only then what is unknown does not depend on the path, and the score of the unknown does not matter
        "has pieces with characters that are no pieces": trainer.model_type == _UNIGRAM
        and not all(character in normal for piece in normal for character in piece),
    }
    return next((reason for reason, applies in found.items() if applies), None)


def _convert(model: Any) -> tokenizers.Tokenizer:
    normalizer, pieces = model.normalizer_spec, list(model.pieces)
    unknown = next(number for number, piece in enumerate(pieces) if piece.type == _UNKNOWN)
    fallback = model.trainer_spec.byte_fallback
    if model.trainer_spec.model_type == _BPE:
        ids = {piece.piece: number for number, piece in enumerate(pieces)}
        name = pieces[unknown].piece
        made: models.Model = models.BPE(ids, _merges(pieces), unk_token=name, fuse_unk=True, byte_fallback=fallback)
    else:
        scores = [(piece.piece, piece.score if piece.type == _NORMAL else _NEVER) for piece in pieces]
        made = models.Unigram(scores, unk_id=unknown, byte_fallback=fallback)
    tokenizer = tokenizers.Tokenizer(made)
    tokenizer.normalizer = _normalizer(normalizer.remove_extra_whitespaces, normalizer.add_dummy_prefix)
    normal = _texts_of(model, _NORMAL)
    if SPACE in normal and not any(SPACE in piece.lstrip(SPACE) for piece in normal):
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+"), "isolated")
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if normalizer.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    # control pieces never come from a text, as in sentencepiece
    special = _texts_of(model, _UNKNOWN, _CONTROL)
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    symbols = _texts_of(model, _USER_DEFINED)
    tokenizer.add_tokens([AddedToken(symbol, special=False, normalized=True) for symbol in symbols])
    return tokenizer


def _texts_of(model: Any, *types: int) -> list[str]:
    return [piece.piece for piece in model.pieces if piece.type in types]


def _merges(pieces: list[Any]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, by falling score of that piece."""
    normal = {piece.piece: number for number, piece in enumerate(pieces) if piece.type == _NORMAL}
    ranked = []
    for piece, number in normal.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in normal and right in normal:
                ranked.append((-pieces[number].score, number, cut, (left, right)))
    return [pair for *_, pair in sorted(ranked)]


def _normalizer(collapse: bool, prefix: bool) -> normalizers.Normalizer:
    steps: list[Any] = []
    if collapse:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    if collapse:
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    return normalizers.Sequence(steps)


def _compare(path: Path, theirs: Any, ours: tokenizers.Tokenizer, model: Any) -> None:
    """Raise ValueError for the first text of which the ids differ, ties of a unigram model apart."""
    ours.encode_special_tokens = True
    draw = random.Random(0)
    pieces = [piece.piece for piece in model.pieces if piece.type != _BYTE]
    made = ["".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(_PROBES)]
    for text in [*_TEXTS, *made, *(text.replace(SPACE, " ") for text in made)]:
        expected, got = theirs.encode(text), ours.encode(text, add_special_tokens=False).ids
        if expected != got and not is_tie(model, expected, got):
            raise ValueError(
                f"data.tokenizer={path} cannot be converted with the same ids: of {text!r} sentencepiece makes "
                f"{expected}, the converted tokenizer {got}. Name another model, or a tokenizer.json."
            )


def is_tie(model: Any, one: list[int], other: list[int]) -> bool:
    """Whether a unigram model has no reason to prefer one of two ways through the same text."""
    if model.trainer_spec.model_type != _UNIGRAM:
        return False
    ways = [[model.pieces[number] for number in way] for way in (one, other)]
    first, second = (math.fsum(piece.score for piece in way if piece.type == _NORMAL) for way in ways)
    strange = [sum(piece.type != _NORMAL for piece in way) for way in ways]
    return strange[0] == strange[1] and math.isclose(first, second, rel_tol=_TIE)
