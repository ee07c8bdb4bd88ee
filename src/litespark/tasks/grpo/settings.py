"""The settings of `task=grpo`."""

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from litespark.config.settings import MAY_CHANGE, settings
from litespark.data.manifest import Manifest
from litespark.metrics.validation import Means
from litespark.ranges import Count, CountFromZero, NotNegative, Positive, Range, Seconds
from litespark.tasks.grpo.losses import Loss, Scale
from litespark.tasks.grpo.rewards import REASONS, REWARDS

if TYPE_CHECKING:
    from litespark.tasks.grpo.policy import Policy
    from litespark.tasks.grpo.rollout import Tools

Weight = Annotated[float, Range(at_least=-1e6, at_most=1e6)]


@settings("task")
class GRPO:
    """Learns from rewards of its own completions of prompts: GRPO, or RLOO, with clipped ratios and no value head."""

    rewards: Annotated[dict[str, Weight], Field(examples=[{"parses": 1.0, "length": 0.1}])]
    """The weight of each reward: `parses`, `keeps_signature` and `length` are ours, others are functions
    `mypkg.module.function(prompts, completions, columns)` of an allowed package, which give a number for each, or names
    of `reward_models`."""
    reward_models: Annotated[dict[str, str], Field(examples=[{"helpful": "logs/runs/NAME"}])] = field(
        default_factory=dict
    )
    """Reward models by a name of `rewards`: the folder of a run with task=reward, or of a Hugging Face classifier."""
    num_generations: Annotated[int, Range(at_least=2, why="an advantage is within a group")] = 8
    """Completions of each prompt: the group that they are compared within."""
    max_new_tokens: Count = 128
    """At most so many tokens a completion, with its EOS."""
    temperature: Positive = 1.0
    """Divides the logits, of the sampler and in the loss."""
    top_k: Count | None = None
    """Sample among so many likeliest tokens; null: all. Probabilities in the loss stay those of all tokens."""
    top_p: Annotated[float, Range(above=0, at_most=1)] | None = None
    """Sample among the likeliest tokens that together reach this probability; null: all."""
    loss_type: Loss = "grpo"
    """How tokens are weighed: `grpo` (a mean over each completion, then over completions), `dr_grpo` (all tokens over
    completions times max_new_tokens), `dapo` (a mean over all tokens), or `rloo` (whole completions)."""
    scale_rewards: Scale = "group"
    """What advantages are divided by: the deviation of rewards in the `group`, in the `batch` (a micro-batch of all
    ranks), or `none`; `rloo` has none."""
    epsilon: NotNegative = 0.2
    """By how much a ratio may fall below 1 before it is clipped."""
    epsilon_high: NotNegative | None = None
    """By how much it may rise above 1; null: epsilon."""
    beta: NotNegative = 0.0
    """How much the KL divergence from the reference model, which is the policy before the first step, adds to the loss,
    or of `rloo` takes from the reward. Above 0 its weights are in memory and checkpoints too; not with an adapter."""
    num_iterations: Count = 1
    """Optimizer steps that learn from one rollout; the prompts of those behind the first are passed over."""
    importance_cap: Positive | None = None
    """Weighs each token by how much likelier the trainer finds it than the sampler did, at most by this; null: not."""
    reward_seconds: Positive = 10.0
    """A function that takes longer for a group is ended, and the group is left out."""
    server: Annotated[
        str | None, MAY_CHANGE, Field(pattern=r"^https?://[^/\s]+:\d+/?$", examples=["http://HOST:PORT"])
    ] = None
    """A vLLM server that samples, see tasks/grpo/server.py; null: the run itself. Resumes are not exact
    with one, and its joules are not in the record."""
    server_folder: Annotated[str | None, MAY_CHANGE] = None
    """A folder that the server reads too, by which it gets the weights; null: a temporary one, of this machine."""
    server_seconds: Annotated[Seconds, MAY_CHANGE] = 600.0
    """That one request to the server may take."""
    stop_ids: tuple[CountFromZero, ...] = ()
    """Ids that end a completion, beside the tokenizer's EOS and those of the model."""

    name = "grpo"
    data_formats = ("prompts",)
    loss_unit = "reward"
    measures_text = False

    def __post_init__(self) -> None:
        if not self.rewards or not any(self.rewards.values()):
            raise ValueError(
                f"task.rewards: got {dict(self.rewards)}, expected one at least with a weight that is not 0; set for "
                f"instance task.rewards.parses=1.0 ({', '.join(REWARDS)}, or a function of your own)"
            )
        if unweighed := [name for name in self.reward_models if name not in self.rewards]:
            raise ValueError(
                f"task.reward_models: got {', '.join(unweighed)} without a weight, expected it among task.rewards; set "
                f"for instance task.rewards.{unweighed[0]}=0.5"
            )
        names = [name.rpartition(".")[2] for name in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"task.rewards: got two of one name ({', '.join(self.rewards)}), expected different ones")
        if self.loss_type == "rloo" and self.importance_cap is not None:
            raise ValueError(
                f"task.importance_cap: got {self.importance_cap:g} with task.loss_type=rloo, expected null: the ratio "
                "of RLOO is that of whole completions; set it to null, or choose another loss"
            )

    @property
    def keeps_reference(self) -> bool:
        """See `RollsOut`."""
        return self.beta > 0

    @property
    def observed(self) -> tuple[str, ...]:
        """See `Observes`."""
        rewards = [f"reward_{name.rpartition('.')[2]}" for name in self.rewards]
        left_out = [f"left_out_{reason}" for reason in REASONS]
        return (
            *("reward", "reward_std", "equal_rewards", *rewards, "completion_length", "ended"),
            *left_out,
            *("kl", "clip_share", "entropy", "sampler_gap"),
        )

    def running(self, tools: "Tools") -> "Policy":
        """See `NeedsTools`; a ValueError for a reward that may not be called, or prompts that are too long."""
        from litespark.tasks.grpo.policy import Policy  # which has these settings

        return Policy.of(self, tools)

    def metrics(self, manifest: Manifest) -> Means:
        """Of held-out prompts, a completion each, and the groups that are left out: the loss is the mean reward below
        0."""
        return Means("loss", *(name for name in self.observed[:-4] if name not in ("reward_std", "equal_rewards")))

    def _not_running(self, *_: Any) -> Any:
        raise ValueError(
            "task=grpo samples completions while it trains; run it with `python train.py`, which gives it these"
        )

    loss = divisor = evaluate = _not_running
