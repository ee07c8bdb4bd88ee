"""Completions by a server that answers as vLLM does, with what our own engine samples."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from litespark.models.generate import complete
from litespark.models.llama.huggingface import load_huggingface
from litespark.models.sampling import Sampling
from litespark.ops.backend import OpsConfig, resolve
from litespark.tasks.grpo import server as module
from litespark.tasks.grpo.server import Server, seed_of
from tests.models.small import small_model
from tests.tasks.grpo.test_policy import PROMPTS, grpo_run, policy
from tests.tasks.small_dpo import weights
from tests.tasks.toy_examples import VOCABULARY, Examples

_STEPS, _SEED = [0, 1, 2, 1 << 62], 3
_NUMBERS = {seed_of(_SEED, of << 32 | number): of << 32 | number for of in _STEPS for number in range(len(PROMPTS))}
_PATH = {"collective_rpc": "/collective_rpc", "models": "/v1/models"}


class Answers(BaseHTTPRequestHandler):
    """`server.fault` says what goes wrong, `server.seen` what was asked."""

    def do_GET(self):
        self.server.seen.append(self.path)
        self.answer({"data": [{"id": "toy", "max_model_len": 40}]})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append(self.path)
        if server.fault == "no development mode" and self.path == "/collective_rpc":
            self.answer({"detail": "Not Found"}, 404)
        elif server.fault == "other model" and self.path == "/collective_rpc":
            self.answer({"error": "size mismatch"}, 400)
        elif self.path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            server.model = load_huggingface(body["kwargs"]["weights_path"], resolve(OpsConfig())).eval()
            self.answer({"results": [None]})
        elif self.path == "/reset_prefix_cache":
            self.answer(None)
        elif server.fault == "slow":
            time.sleep(0.3)
        elif server.fault in ("fails", "fails once"):
            server.fault = None if server.fault == "fails once" else server.fault
            self.answer({"error": "engine dead"}, 500)
        else:
            self.complete(body)

    def complete(self, body):
        assert (body["model"], body["return_token_ids"], body["top_k"]) == ("toy", True, 0)
        sampling = Sampling(body["max_tokens"], body["temperature"], seed=_SEED)
        prompt, number = torch.tensor(body["prompt"]), _NUMBERS[body["seed"]]
        with self.server.lock:
            found = complete(
                self.server.model, [prompt], sampling, samples=body["n"], numbers=[number],
                eos_ids=body["stop_token_ids"], vocab_size=VOCABULARY,
            )  # fmt: skip
        choices = [
            {
                "index": index,
                "token_ids": ids.tolist() if self.server.fault != "no ids" else None,
                "logprobs": {"token_logprobs": [log - self.server.shift for log in logs.tolist()]},
            }
            for index, (ids, logs) in enumerate(zip(found.ids, found.log_probabilities, strict=True))
        ]
        if self.server.fault == "another vocabulary":
            choices[0]["token_ids"][0] = VOCABULARY
        self.answer({"choices": choices[::-1] if self.server.fault != "too few" else choices[1:]})

    def answer(self, content, code=200):
        said = b"" if content is None else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.seen, server.fault, server.shift, server.lock = [], None, 0.0, threading.Lock()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_training_is_the_same_as_without_it_up_to_rounding(tmp_path):
    with serving() as server:
        there, rows, _ = grpo_run(tmp_path / "there", steps=3, server=server.url, temperature=0.8)
        here, of_here, _ = grpo_run(tmp_path / "here", steps=3, temperature=0.8)
    for name, values in weights(here).items():
        torch.testing.assert_close(weights(there)[name], values, rtol=1e-3, atol=1e-5)
    assert [row.get("train/reward") for row in rows] == [row.get("train/reward") for row in of_here]
    assert 0 < rows[2]["train/sampler_gap"] < 1e-5
    # new weights for each of three steps, of two micro-batches, and for the validation behind them
    assert server.seen.count("/collective_rpc") == server.seen.count("/reset_prefix_cache") == 4
    assert server.seen.count("/v1/completions") == 3 * 4 + 3
    assert server.seen[:4] == ["/v1/models", "/collective_rpc", "/reset_prefix_cache", "/v1/completions"]
    folder = there.module.task.server._folder
    there.module.task.close()
    assert not folder.exists()


def test_a_sampler_that_differs_is_seen_and_corrected(tmp_path):
    model = small_model(vocab_size=VOCABULARY).eval()
    prompts = next(iter(Examples(PROMPTS, PROMPTS[:3], per_row=1, micro_batch_size=2).train_dataloader()))
    with serving() as server:
        server.shift = 0.2
        task = policy(server=server.url, importance_cap=2.0, scale_rewards="none")
        batch = task.rolled(model, prompts, 0, 0)
        task.close()
    loss, observed = task.observe(model, batch)
    assert observed[-1, 0] / observed[-1, 1] == pytest.approx(0.2, abs=1e-4)
    task.settings = policy(scale_rewards="none").settings
    torch.testing.assert_close(loss, 1.2214028 * task.observe(model, batch)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("fails", r"/v1/completions failed \(500\): .*engine dead.*, 3 times; does it serve the model of this run"),
        ("slow", r"/v1/completions: timed out, 3 times; start it as .* or raise task.server_seconds=0.1"),
        ("too few", "got 3 completions of a prompt, expected 4"),
        ("no ids", "got a completion of 0 token_ids and .*; update vLLM"),
        (
            "another vocabulary",
            rf"got the id {VOCABULARY}, expected .* below {VOCABULARY}; it serves another model, toy",
        ),
        ("no development mode", r"/collective_rpc is not there: .*; start it as `VLLM_SERVER_DEV_MODE=1 vllm serve"),
        ("other model", r"/collective_rpc failed \(400\): .*size mismatch.*; does it serve the model of this run"),
        ("fails once", None),
    ],
)
def test_what_a_server_does_wrong_is_told(monkeypatch, fault, message):
    monkeypatch.setattr(module, "_WAITS", (0.0, 0.0))
    model = small_model(vocab_size=VOCABULARY).eval()
    with serving() as server:
        task = policy(server=server.url, server_seconds=0.1 if fault == "slow" else 20.0)
        server.fault = fault
        prompts = next(iter(Examples(PROMPTS, PROMPTS[:3], per_row=1).train_dataloader()))
        try:
            if message is None:
                assert len(task.rolled(model, prompts, 0, 0).lengths) == 4 * len(prompts.examples)
            else:
                with pytest.raises(ValueError, match=f"task.server={server.url}: {message}"):
                    task.rolled(model, prompts, 0, 0)
        finally:
            task.close()


def test_a_server_that_is_away_or_reads_too_little_is_told_before_the_first_step(monkeypatch):
    monkeypatch.setattr(module, "_WAITS", (0.0, 0.0))
    with serving() as server:
        reads = Server(
            server.url, seconds=5, folder=None, ends=frozenset(), vocab_size=9, from_first=lambda make, _: make()
        )
        reads.check(40)
        with pytest.raises(ValueError, match="got a server of toy that reads 40 ids, expected 41"):
            reads.check(41)
    with pytest.raises(ValueError, match=r"task.server_folder: got .*none, expected a folder that is there"):
        policy(server=server.url, server_folder="/none")
    with pytest.raises(ValueError, match=r"/v1/models: .*refused, 3 times; start it as"):
        reads.check(40)
