"""`task=grpo` as it runs: it rolls out, keeps what several steps learn from, and computes the loss of it."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from litespark.data.batch import TokenBatch
from litespark.data.manifest import Manifest
from litespark.metrics.validation import Means
from litespark.models.adapters.lora import disabled
from litespark.models.evaluating import evaluating
from litespark.tasks.grpo.losses import advantages, clipped_objective, divisor
from litespark.tasks.grpo.rewards import REWARDS, OwnReward
from litespark.tasks.grpo.rollout import RolloutBatch, Tools, batch_of, completions_of, scores_of, seen
from litespark.tasks.grpo.scoring import Scorer
from litespark.tasks.grpo.server import Server
from litespark.tasks.grpo.settings import GRPO
from litespark.tasks.sequences import examples_in, token_losses

_STEP_BITS = 32
"""The number of a prompt in a step, from which its samples are drawn: the step above, the prompt below."""
_VALIDATION_STEP = 1 << 62


class Policy:
    """A `Task` that `Observes` and `RollsOut`.

    Args:
        own: rewards that are called in this process, by their name in `settings.rewards`.
    """

    name = GRPO.name
    loss_unit = GRPO.loss_unit
    measures_text = GRPO.measures_text

    def __init__(self, settings: GRPO, tools: Tools, own: Mapping[str, OwnReward] | None = None) -> None:
        self.settings = settings
        self.tools = tools
        self.scorer = Scorer(settings.rewards, seconds=settings.reward_seconds, own=own)
        self.observed = settings.observed
        self.keeps_reference = settings.keeps_reference
        self.server: Server | None = None
        self._kept: dict[int, RolloutBatch] = {}
        self._sampled = 0
        self._step = -1  # the last that was taken, or is

    @classmethod
    def of(cls, settings: GRPO, tools: Tools) -> "Policy":
        """As `settings` state it, with all that it calls at hand; a ValueError where something cannot be."""
        for name in settings.rewards:
            own = name in REWARDS or name in settings.reward_models
            if not own and (reason := tools.why_not(name)) is not None:
                raise ValueError(
                    f"task.rewards: got {name}, expected {', '.join(REWARDS)} or a function of your own; {reason}"
                )
        longest = tools.longest_prompt
        room = min(tools.seq_len + 1, tools.max_seq_len) - longest
        if settings.max_new_tokens > room:
            raise ValueError(
                f"task.max_new_tokens: got {settings.max_new_tokens} with prompts of up to {longest} tokens, expected "
                f"at most {max(0, room)}, so that both fit into data.seq_len={tools.seq_len} and model.max_seq_len="
                f"{tools.max_seq_len}; lower it or data.max_prompt_length"
            )
        server = None
        if settings.server is not None:
            if not tools.whole:
                raise ValueError(
                    f"task.server: got {settings.server} with an adapter or sharded weights, expected whole models, "
                    "whose weights are given to the server; set adapter=none strategy=ddp, or task.server=null"
                )
            server = Server(
                settings.server,
                seconds=settings.server_seconds,
                folder=settings.server_folder,
                ends=tools.ends,
                vocab_size=tools.vocab_size,
                from_first=tools.from_first,
            )
            server.check(longest + settings.max_new_tokens)
            tools = replace(tools, sample=server)
        # with an EOS behind it
        own_rewards = tools.reward_models(settings.reward_models, longest + settings.max_new_tokens + 1)
        policy = cls(settings, tools, own_rewards)
        policy.server = server
        policy.scorer.check()
        return policy

    def rolled(
        self, model: nn.Module, batch: TokenBatch, step: int, place: int, reference: nn.Module | None = None
    ) -> RolloutBatch:
        """What micro-batch `place` of `step` learns from: completions of the prompts of `batch`, or of those of the
        first step of this rollout, whose prompts then stand for these.

        A ValueError where the rollout of an earlier step is not there.
        """
        every, self._step = self.settings.num_iterations, step
        if step % every:
            if place not in self._kept:
                raise ValueError(
                    f"step {step} learns from the rollout of step {step - step % every}, which is not there for its "
                    f"micro-batch {place}; resume with as many ranks and micro-batches, or from a checkpoint at a "
                    f"multiple of task.num_iterations={every}"
                )
            return self._kept[place]
        if place == 0:
            self._kept = {}
        made = self._roll(model, batch, step)
        if self.keeps_reference:
            self._compare(model, reference, made)
        if every > 1:
            self._kept[place] = made
        return made

    def _roll(self, model: nn.Module, batch: TokenBatch, step: int) -> RolloutBatch:
        numbers = examples_in(batch, self.name).examples.tolist()
        held = self.tools.examples("train")
        prompts = [(number, held[number]) for number in numbers]
        size, device = self.settings.num_generations, batch.tokens.device
        with self.tools.during("rollout"):
            ids = [torch.tensor(prompt.sequences[0], dtype=torch.int64, device=device) for _, prompt in prompts]
            draws = [step << _STEP_BITS | number for number in numbers]
            completions = completions_of(self.settings, self.tools, model, ids, size, draws, step)
        self._sampled += len(completions.ids)
        with self.tools.during("reward"):
            scores = scores_of(self.scorer, self.tools, [prompt for _, prompt in prompts], completions, size)
        return batch_of(self.settings, self.tools, prompts, completions, scores).to(device)

    def _compare(self, model: nn.Module, reference: nn.Module | None, batch: RolloutBatch) -> None:
        """Add what the reference model makes of the tokens: the one that is given, or `model` without its adapter."""
        with self.tools.during("rollout"), evaluating(model):
            if reference is None:
                with disabled(model):
                    batch.reference_logs = self._logs(model, batch)
            else:
                batch.reference_logs = self._logs(reference.eval(), batch)
            if self.settings.loss_type == "rloo":
                batch.old = self._logs(model, batch)
                kl = batch.sums((batch.old - batch.reference_logs) * batch.weights)
                # less by this than the others of its group, since the advantage is linear in rewards
                size = self.settings.num_generations
                shift = advantages(-self.settings.beta * kl.view(-1, size), "rloo", "none").flatten()
                batch.advantages += shift * batch.counted

    def _logs(self, model: nn.Module, batch: RolloutBatch) -> Tensor:
        """(B, S) log-probabilities of the labels, at the temperature that they are sampled at."""
        return -token_losses(model, batch, self.settings.temperature).nats

    def take_sampled(self) -> int:
        """How many completions this rank sampled to learn from since the last call."""
        sampled, self._sampled = self._sampled, 0
        return sampled

    # ---------------------------------------------------------------- the task

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """The sum over a micro-batch of rollouts, ()."""
        return self.observe(model, batch)[0]

    def divisor(self, batch: TokenBatch) -> int:
        rollout = _rollout(batch)
        limit = self.settings.max_new_tokens
        return divisor(self.settings.loss_type, rollout.counted_completions, rollout.counted_tokens, limit)

    def observe(self, model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """See `Observes`. Over tokens: `sampler_gap` is the mean of |log π - log π of the sampler| before a first step,
        `kl` that of k3, of RLOO of log π - log π of the reference. `entropy` is that of -log π of what was sampled, an
        estimate without the other tokens' probabilities, for which the whole logits would be needed. `reward_std` is
        that within groups; `equal_rewards`, of which nothing is learnt, and `left_out_REASON` are shares of groups."""
        rollout, settings = _rollout(batch), self.settings
        logs = self._logs(model, rollout)
        if rollout.old is None and settings.num_iterations > 1:
            rollout.old = logs.detach()
        old = logs.detach() if rollout.old is None else rollout.old
        counted = rollout.weights * rollout.of_tokens(rollout.counted)
        gap = old - rollout.sampled
        cap = settings.importance_cap
        found = clipped_objective(
            logs,
            old,
            rollout.advantages,
            counted,
            rollout.lengths,
            rollout.sums,
            rollout.of_tokens,
            loss=settings.loss_type,
            beta=settings.beta,
            reference=rollout.reference_logs,
            epsilon=settings.epsilon,
            epsilon_high=settings.epsilon if settings.epsilon_high is None else settings.epsilon_high,
            correction=None if cap is None else gap.exp().clamp(max=cap),
        )
        of = counted if found.clipped.ndim == 2 else rollout.counted
        kl = found.kl
        if rollout.reference_logs is not None and kl is None:
            kl = old - rollout.reference_logs
        tokens = counted.sum()
        own = [torch.stack([(kl.detach() * counted).sum(), tokens] if kl is not None else [0 * tokens, 0 * tokens])]
        own.append(torch.stack([found.clipped.sum().float(), of.sum()]))
        of_all = rollout.weights.sum()
        own += [torch.stack([(of.detach() * rollout.weights).sum(), of_all]) for of in (-old, gap.abs())]
        return found.loss, torch.cat([rollout.seen, torch.stack(own)])

    def metrics(self, manifest: Manifest) -> Means:
        return self.settings.metrics(manifest)

    def evaluate(self, model: nn.Module, batch: TokenBatch, metrics: Metric) -> None:
        """Sample one completion of each prompt, the same numbers in each validation; without a time of their own."""
        numbers = examples_in(batch, self.name).examples.tolist()
        held = self.tools.examples("validation")
        # a rank without prompts takes part in what sharded weights need
        prompts = [held[number] for number in numbers] or [held[0]]
        ids = [torch.tensor(one.sequences[0], dtype=torch.int64, device=batch.tokens.device) for one in prompts]
        draws = [_VALIDATION_STEP << _STEP_BITS | number for number in numbers or [0]]
        # of the weights behind the last step; before the first one those that it begins with
        completions = completions_of(self.settings, self.tools, model, ids, 1, draws, -1 - self._step)
        if numbers:
            scores = scores_of(self.scorer, self.tools, prompts, completions, 1)
            lengths = torch.tensor([len(one) for one in completions.ids], dtype=torch.float32)
            rows = seen(scores, lengths, completions.ended)
            loss = rows[:1] * torch.tensor([[-1.0, 1.0]])
            metrics.update(torch.cat([loss, rows[:1], rows[3:]]))  # one completion has no deviation

    # ---------------------------------------------------------------- the state

    def state_dict(self, step: int) -> dict[str, Any]:
        """The rollout that `step`, the next one, learns from, on the CPU; nothing where it makes one of its own."""
        if step % self.settings.num_iterations == 0:
            return {}
        kept = {place: batch.to("cpu", non_blocking=False) for place, batch in self._kept.items()}
        return {
            str(place): {field.name: getattr(batch, field.name) for field in fields(batch)}
            for place, batch in kept.items()
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._kept = {int(place): RolloutBatch(**values).to(device) for place, values in state.items()}

    def close(self) -> None:
        """End the process of the rewards, and remove the weights that a server was given."""
        self.scorer.close()
        if self.server is not None:
            self.server.close()


def _rollout(batch: TokenBatch) -> RolloutBatch:
    assert isinstance(batch, RolloutBatch)
    return batch
