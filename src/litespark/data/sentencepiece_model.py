"""A sentencepiece model behind a `Tokenizer`: `sentencepiece` itself makes ids of texts and texts of ids."""

import json
from pathlib import Path

from litespark.data.libraries import library
from litespark.data.tokenizer_files import MODEL_FILE

_SPACE = "▁"


class SentencePieceModel:
    """A `.model` file of any kind and normalisation, with the methods of a `TokenizersModel`.

    ValueError: sentencepiece is not installed, or the file is no model.
    """

    file = MODEL_FILE
    encodes_words = False

    def __init__(self, path: Path) -> None:
        sentencepiece = library("sentencepiece", setting=f"data.tokenizer={path}")
        self._content = path.read_bytes()
        self._begin_ids: list[int] = []
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(self._content)
        except Exception as error:  # it has no class of its own for what is no model
            raise ValueError(f"data.tokenizer={path} is not a sentencepiece model: {error}. Name one.") from error
        self.vocab_size: int = self._model.get_piece_size()

    @property
    def stated(self) -> dict[str, str]:
        """The texts of EOS and BOS, as far as the model has them."""
        ids = {"eos_token": self._model.eos_id(), "bos_token": self._model.bos_id()}
        return {key: self._model.id_to_piece(number) for key, number in ids.items() if number >= 0}

    def around(self) -> tuple[list[int], list[int]]:
        return [], []  # its caller adds them

    def begin_with(self, ids: list[int]) -> None:
        self._begin_ids = ids

    def encode(self, texts: list[str]) -> list[list[int]]:
        # in one thread: preparation has a process for every core
        ids: list[list[int]] = self._model.encode(texts, num_threads=1)
        return ids

    def decode(self, ids: list[int]) -> str:
        return str(self._model.decode(ids))

    def token(self, number: int) -> str | None:
        return str(self._model.id_to_piece(number)) if number < self.vocab_size else None

    def id_of(self, text: str) -> int | None:
        number = int(self._model.piece_to_id(text))  # that of the unknown piece, where there is none
        return number if self.token(number) == text else None

    def token_bytes(self) -> list[int]:
        model, lengths = self._model, [0] * self.vocab_size
        for number in range(self.vocab_size):
            if model.is_byte(number):
                lengths[number] = 1
            elif not (model.is_control(number) or model.is_unknown(number) or model.is_unused(number)):
                lengths[number] = len(model.id_to_piece(number).replace(_SPACE, " ").encode())
        return lengths

    def description(self) -> bytes:
        return self._content + json.dumps(self._begin_ids).encode()

    def save(self, folder: Path) -> dict[str, bool]:
        (folder / MODEL_FILE).write_bytes(self._content)
        return {"add_bos_token": bool(self._begin_ids)}
