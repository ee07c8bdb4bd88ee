"""Completions by a vLLM server, over HTTP alone, for those who have one: `task.server`.

Start it on the model that the run starts from:

    VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs

It gets new weights by a folder that both can read: `reload_weights` through `/collective_rpc`, of its development mode,
then `/reset_prefix_cache`. Its answers are not the same bits in each run, so neither are resumes. With top_k or top_p
its log-probabilities are those among the tokens kept, which `train/sampler_gap` shows. No vLLM was at hand: this was
written by its sources, and is tested against a small server that answers as they do.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import torch
from torch import Tensor, nn

from litespark.models.generate import Completions
from litespark.models.sampling import Sampling
from litespark.models.spec import HasHuggingFace

_OPENER = build_opener(ProxyHandler({}))  # a server of a cluster is not behind its proxy

_AT_ONCE = 64  # requests; the server batches what it has
_WAITS = (1.0, 4.0)  # seconds before each further try
_START = "start it as `VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs`"
_OTHER = "does it serve the model of this run? Look at its log"


class Server:
    """A `Sampler`.

    Args:
        url: `http://HOST:PORT`. seconds: that one request may take.
        folder: one that the server reads too, for weights; None: a temporary one, of this machine.
        ends: ids that end a completion. vocab_size: of the tokenizer. from_first: see `Tools`.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float,
        folder: str | None,
        ends: frozenset[int],
        vocab_size: int,
        from_first: Callable[[Callable[[], Any], str], Any],
    ) -> None:
        self.url = url.rstrip("/")
        self.seconds = seconds
        self.ends = ends
        self.vocab_size = vocab_size
        self.from_first = from_first
        self._parent = folder
        self._folder: Path | None = None  # of the first rank
        self._version: int | None = None
        self._served = ""

    def check(self, longest: int) -> None:
        """A ValueError where the server is away, or reads fewer than `longest` ids, or there is no such folder."""
        if self._parent is not None and not Path(self._parent).is_dir():
            raise ValueError(f"task.server_folder: got {self._parent}, expected a folder that is there; make it")
        served = ((self._ask("/v1/models") or {}).get("data") or [{}])[0]
        self._served, reads = str(served.get("id", "")), served.get("max_model_len") or longest
        if reads < longest:
            raise self._error(
                f"got a server of {self._served} that reads {reads} ids, expected {longest}, of a prompt with its "
                "completion; start it with a larger --max-model-len"
            )

    def __call__(
        self,
        model: nn.Module,
        prompts: Sequence[Tensor],
        sampling: Sampling,
        samples: int,
        numbers: Sequence[int],
        version: int,
    ) -> Completions:
        if version != self._version:
            self.from_first(lambda: self._renew(model, version), "the server of completions to take the weights")
            self._version = version
        rows = getattr(getattr(model, "config", None), "vocab_size", self.vocab_size)
        common = {
            **{"model": self._served, "n": samples, "max_tokens": sampling.max_new_tokens, "logprobs": 1},
            **{"temperature": sampling.temperature, "top_p": sampling.top_p or 1.0, "top_k": sampling.top_k or 0},
            # what else the generation_config.json of the served folder would say
            **{"min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True, "stop_token_ids": sorted(self.ends)},
            # what is no id of the tokenizer is never sampled
            **{"logit_bias": {str(row): -100 for row in range(self.vocab_size, rows)}, "return_token_ids": True},
        }
        asked = [
            {**common, "prompt": prompt.tolist(), "seed": seed_of(sampling.seed, number)}
            for prompt, number in zip(prompts, numbers, strict=True)
        ]
        with ThreadPoolExecutor(min(_AT_ONCE, len(asked))) as pool:
            answers = list(pool.map(lambda body: self._ask("/v1/completions", body), asked))
        device = prompts[0].device
        read = [pair for answer in answers for pair in self._read(answer, samples)]
        return Completions(
            [torch.tensor(ids, dtype=torch.int64, device=device) for ids, _ in read],
            [ids[-1] in self.ends for ids, _ in read],
            [torch.tensor(logs, dtype=torch.float32, device=device) for _, logs in read],
        )

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, answer: Mapping[str, Any], samples: int) -> list[tuple[list[int], list[float]]]:
        choices = sorted(answer.get("choices", ()), key=lambda choice: choice["index"])
        if len(choices) != samples:
            raise self._error(f"got {len(choices)} completions of a prompt, expected {samples}; look at its log")
        found = []
        for choice in choices:
            ids, logs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
            if not ids or logs is None or len(logs) != len(ids) or None in logs:
                raise self._error(
                    f"got a completion of {len(ids or ())} token_ids and {len(logs or ())} log-probabilities, expected "
                    "as many; update vLLM to one that knows return_token_ids"
                )
            if max(ids) >= self.vocab_size:
                raise self._error(
                    f"got the id {max(ids)}, expected those of the tokenizer, below {self.vocab_size}; it serves "
                    f"another model, {self._served}: {_START}, the model of this run"
                )
            found.append((ids, logs))
        return found

    def _renew(self, model: nn.Module, version: int) -> None:
        config = getattr(model, "config", None)
        if not isinstance(config, HasHuggingFace):
            raise self._error(f"got a {type(model).__name__}, expected a family that transformers has; leave it out")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="litespark-weights-", dir=self._parent)).resolve()
            self._folder.chmod(0o755)  # the server may be another user's
        target = self._folder / f"version-{version}"
        config.huggingface().export_huggingface(model, target)
        self._ask("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(target)}})
        if not (self._ask("/reset_prefix_cache", {}) or {}).get("success", True):
            raise self._error("it keeps what it computed by other weights; end what else asks it, and resume")
        shutil.rmtree(target)

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer, None where it is empty; tried again where the server is away or fails."""
        data = None if body is None else json.dumps(body).encode()
        waits = iter(_WAITS)
        while True:
            request = Request(self.url + path, data, {"Content-Type": "application/json"})
            try:
                with _OPENER.open(request, timeout=self.seconds) as answer:
                    content = answer.read()
                return json.loads(content) if content.strip() else None
            except HTTPError as error:
                said = error.read().decode(errors="replace")[:300]
                if error.code == 404:
                    raise self._error(f"{path} is not there: {said}; {_START}") from error
                trouble, remedy = f"{path} failed ({error.code}): {said}", _OTHER
                if error.code < 500:
                    raise self._error(f"{trouble}; {remedy}") from error
            except (HTTPException, OSError) as error:
                reason = getattr(error, "reason", error)
                trouble, remedy = f"{path}: {reason}", f"{_START}, or raise task.server_seconds={self.seconds:g}"
            except json.JSONDecodeError as error:
                raise self._error(f"{path} gave no JSON ({error}); {_START}") from error
            if (wait := next(waits, None)) is None:
                raise self._error(f"{trouble}, {len(_WAITS) + 1} times; {remedy}")
            time.sleep(wait)

    def _error(self, message: str) -> ValueError:
        return ValueError(f"task.server={self.url}: {message}")


def seed_of(seed: int, number: int) -> int:
    """Of a prompt's request: 62 bits, far from those of others, since vLLM adds the number of the sample."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 2
