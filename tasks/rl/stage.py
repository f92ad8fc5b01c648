"""Declares the RL stages: `rl-zero`, `reasoning-rl`, `final-rl`; `train.py` here does the work."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.kinds import Kind
from tasks.problem import VERIFIABLE, Domains
from tasks.rendering import Template
from tasks.rewards.settings import AnyTerm, CodeChecking
from tasks.rewards.terms.accuracy import Accuracy
from tasks.rewards.terms.format import Format
from tasks.rollout.settings import EngineSettings
from tasks.settings import NEUTRAL, VOLATILE, Count, Positive, Settings, Share
from tasks.stage import MODEL_AND_PROBLEMS, Place, Stage
from tasks.training.settings import LaunchSettings, LoraSettings


class LengthStep(Settings):
    """From `step` on, completions may have `max_completion_length` tokens."""

    step: Annotated[int, Field(ge=0)]
    max_completion_length: Positive


class CurriculumStage(Settings):
    """From `step` on, only problems with a pass rate (before training) of min_pass_rate to max_pass_rate."""

    step: Count
    min_pass_rate: Share = 0.0
    max_pass_rate: Share = 1.0


class Curriculum(Settings):
    """Problems staged by the starting checkpoint's own pass rate, measured once before step 0."""

    samples_per_problem: Positive = 8
    stages: Annotated[tuple[CurriculumStage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _stages_rise(self) -> Self:
        steps = [s.step for s in self.stages]
        if steps[0] != 0 or steps != sorted(set(steps)):
            raise ValueError(
                "curriculum.stages must start at step 0 and have rising, distinct steps: sort them"
            )
        return self


LOSSES = ("grpo", "dapo", "dr_grpo")
"""The losses of `tasks.rl.objective`, which imports torch."""


def known_loss(name: str) -> str:
    """A loss's name or import path. The module is found and its source read, but nothing is imported: it may
    need torch, which is not imported while presets are loaded.

    Raises:
        ValueError: there is no such name, module or function.
    """
    module, _, function = name.partition(":")
    if name in LOSSES:
        return name
    if not function:
        raise ValueError(f"{name!r} is none of {', '.join(LOSSES)} and no import path module:function")
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise ValueError(f"loss {name!r}: no module {module} can be imported from here: fix the path")
    names = {getattr(node, "name", "") for node in ast.parse(Path(found.origin).read_text()).body}
    if function not in names:
        raise ValueError(f"loss {name!r}: {found.origin} defines no function {function}: fix the path")
    return name


_BIASED = ("top_p", "top_k", "min_p", "typical_p")


class RLConfig(CodeChecking):
    """GRPO as published (Eq. 1-3; Methods): rl-zero, reasoning-rl, final-rl and the RL-only student."""

    template: Template = "r1"
    """How a question becomes a prompt: `r1` is the paper's Table 1, `plain` that without its preamble,
    `r1-few-shot` adds three worked examples, `chat` is the model's own chat template; or a text of your own
    with `{question}` in it once. The same in every stage (`tasks.rendering`)."""
    domains: Domains = VERIFIABLE
    """Which training problems are asked."""
    steps: Positive = 10_400
    """Policy updates."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """G: outputs drawn for one question, whose rewards are compared with each other."""
    questions_per_step: Positive = 32
    """Different questions in one policy update."""
    mini_batches_per_rollout: Positive = 16
    """Policy updates made from one rollout, each sample used once (8,192 = 16 x 512)."""
    micro_batch_tokens: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 16_384
    """Tokens in one forward and backward pass on one device; a longer row has a pass of its own."""
    learning_rate: Annotated[float, Field(gt=0, le=1e-2)] = 3e-6
    """Constant after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Updates in which the learning rate rises from 0."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.001
    """Beta: weight of the KL divergence from the reference policy in the loss. 0: no reference is kept."""
    clip_epsilon: Annotated[float, Field(gt=0)] = 10.0
    """The ratio of new to old policy is clipped to 1 - epsilon .. 1 + epsilon."""
    reference_sync_steps: Positive = 400
    """The reference becomes the present policy every so many updates."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Of the draws; top-p and top-k are refused, since a cut would bias the ratios."""
    max_completion_length: Positive = 32_768
    """Tokens; longer answers are cut."""
    length_schedule: tuple[LengthStep, ...] = ()
    """Other maximum lengths from given steps on."""
    rewards: Annotated[tuple[AnyTerm, ...], Field(min_length=1)] = (Accuracy(), Format())
    """The terms that add up to the reward, each with a weight (1) and, if wanted, only in the last steps."""
    general_last_steps: Annotated[int | None, Field(ge=1)] = None
    """General prompts enter only in the last N steps (final RL: 400)."""
    general_share: Share = 0.5
    """Share of general prompts in a step once they have entered."""
    bf16: bool = False
    """Mixed precision; the weights stay in float32."""
    recompute: Annotated[bool | None, Field(json_schema_extra=VOLATILE)] = None
    """Recompute activations in the backward pass: a third more arithmetic for much less memory. `null`: from
    1e9 parameters on."""
    compile_layers: Annotated[bool, Field(json_schema_extra=VOLATILE)] = False
    """torch.compile for the layers: an update takes a third less time and less memory, the first one about
    half a minute to two minutes more. For runs of hours."""
    engine: EngineSettings = EngineSettings()
    """What draws the outputs."""
    checkpoint_every: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 50
    """Updates between two places to resume from."""
    seed: int = 0
    """Of the prompt order and the draws."""
    evaluate_every: Annotated[Count, Field(json_schema_extra=NEUTRAL)] = 0
    """Updates between two evaluations of the policy on a few held-out questions (Fig. 1), the first before
    all updates and the last after them: temperature 0.6, top-p 0.95, at most `max_completion_length` tokens,
    the same seeds each time. Training itself stays the same. 0: never."""
    evaluate_problems: Annotated[Positive, Field(json_schema_extra=NEUTRAL)] = 30
    """Questions of each domain in such an evaluation: the first by id whose answers a rule judges."""
    evaluate_samples: Annotated[Positive, Field(json_schema_extra=NEUTRAL)] = 16
    """Answers to each question: k of cons@k."""
    loss: Annotated[str, AfterValidator(known_loss), Field(json_schema_extra=NEUTRAL)] = "grpo"
    """`grpo`: mean over a response's tokens, then over responses (Eq. 1). `dapo`: mean over all tokens.
    `dr_grpo`: a response's sum over the length limit, advantages not divided by the deviation. Or the import
    path `module:function` of another one, called like those of `tasks.rl.objective`."""
    refill_rounds: Annotated[Count, Field(json_schema_extra=NEUTRAL)] = 0
    """Dynamic sampling: groups whose rewards are all equal are drawn again from other problems, at most so
    many times a rollout. 0: never."""
    skip_zero_advantage: Annotated[bool, Field(json_schema_extra=NEUTRAL)] = False
    """No forward and backward pass (nor the reference's) on groups whose rewards are all equal; their KL term
    is then lost.
    Where `kl_coef` is 0 nothing is lost and they are skipped anyway."""
    rollout_ahead: Annotated[bool, Field(json_schema_extra=NEUTRAL)] = False
    """Generate the next rollout while this one is learned from, by an engine on devices of its own. Its
    policy is then `mini_batches_per_rollout` updates old; the ratio of Eq. 1 is taken to the engine's own
    log-probabilities, which it then always has to give."""
    curriculum: Annotated[Curriculum | None, Field(json_schema_extra=NEUTRAL)] = None
    """Problems by the starting checkpoint's own pass rate, a range per stage of steps."""
    lora: Annotated[LoraSettings | None, Field(json_schema_extra=NEUTRAL)] = None
    """Adapters through PEFT instead of all weights; the reference is then the base and does not move."""
    publish: Annotated[Literal["last", "best"], Field(json_schema_extra=NEUTRAL)] = "last"
    """`best`: the checkpoint with the highest mean reward over the ten steps before it, of those after other
    questions or reward terms last entered."""
    mismatch_limit: Annotated[float, Field(gt=0, json_schema_extra=VOLATILE)] = 0.1
    """Nats between the sampler's and the trainer's log-probability of a token, in the mean: above it the
    start-up canary stops the run and a health line is written."""
    futile_rollouts: Annotated[Count, Field(json_schema_extra=VOLATILE)] = 20
    """Stop, with the likely reasons, after so many rollouts in a row without one right answer, or without one
    well-formed completion where `format` is rewarded. 0: never."""
    budget_hours: Annotated[float | None, Field(gt=0, json_schema_extra=VOLATILE)] = None
    """Accelerator-hours (on a CPU: hours) after which training stops at a checkpoint; with a larger budget
    the next run goes on from there."""
    keep_state: Annotated[bool, Field(json_schema_extra=VOLATILE)] = True
    """Keep the trainer's state of the finished run in the work folder, so that one with more `steps` goes on
    from it (`tasks.rl.continuation`): about 16 bytes a parameter."""
    launch: Annotated[LaunchSettings, Field(json_schema_extra=VOLATILE)] = LaunchSettings()
    """Several processes on one machine."""
    report_to: Annotated[
        tuple[Literal["tensorboard", "wandb", "trackio"], ...], Field(json_schema_extra=VOLATILE)
    ] = ()
    """Trackers that get the metrics too; the Parquet tables are always written."""

    @property
    def batch_size(self) -> int:
        """Completions in one policy update."""
        return self.questions_per_step * self.group_size

    @property
    def longest_completion(self) -> int:
        """Tokens that a completion may have at most, in any step."""
        return max([self.max_completion_length, *(s.max_completion_length for s in self.length_schedule)])

    @model_validator(mode="before")
    @classmethod
    def _sampling_is_unbiased(cls, values: Any) -> Any:
        if cut := [name for name in _BIASED if isinstance(values, dict) and name in values]:
            raise ValueError(
                f"{cut[0]} cuts the distribution that RL samples from, so the policy ratios (Eq. 1) would be "
                "biased: remove it; temperature alone shapes RL sampling"
            )
        return values

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if [s.step for s in self.length_schedule] != sorted({s.step for s in self.length_schedule}):
            raise ValueError("length_schedule must have rising, distinct steps: sort it")
        if self.rollout_ahead and (self.refill_rounds or not self.engine.entry.own_device):
            raise ValueError(
                "rollout_ahead needs an engine on devices of its own, and cannot draw groups again: set "
                "engine.name to vllm-server and refill_rounds to 0"
            )
        if self.compile_layers and self.engine.entry.caches_in_trainer:
            raise ValueError(
                f"compile_layers: engine {self.engine.name} samples from the trained model itself, whose "
                "compiled layers take whole packs only; set engine.name to vllm or compile_layers to false"
            )
        if len({t.name for t in self.rewards}) != len(self.rewards):
            raise ValueError("rewards names a term twice: give each term once with one weight")
        return self

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Self:
        share, rest = divmod(self.batch_size, self.launch.processes)
        if rest:
            raise ValueError(
                f"launch.processes {self.launch.processes} does not divide questions_per_step x group_size = "
                f"{self.batch_size}: choose a divisor"
            )
        if (self.refill_rounds or self.skip_zero_advantage) and share % self.group_size:
            raise ValueError(
                f"launch.processes {self.launch.processes} would split groups of {self.group_size}, and "
                "refill_rounds and skip_zero_advantage need whole ones: use fewer processes"
            )
        return self


def without_reward_models(config: RLConfig) -> RLConfig:
    """Final RL by rules alone: no terms that a reward model scores, and no general prompts, which only those
    terms reward.

    Raises:
        ValueError: nothing would be left to reward or to ask.
    """
    rewards = tuple(term for term in config.rewards if not term.needs_reward_models)
    domains = tuple(domain for domain in config.domains if domain != "general")
    if not rewards or not domains:
        raise ValueError("without its reward models it has no reward or no domain left")
    return config.model_copy(update={"rewards": rewards, "domains": domains, "general_last_steps": None})


RL_ZERO = Stage(
    "rl-zero", 3, "R1-Zero's RL",
    "GRPO on a base with accuracy and format rewards only (2.1; the control of F.1).",
    "gpu-train", RLConfig, MODEL_AND_PROBLEMS, Kind.checkpoint, "tasks.rl.train:run",
    nodes={
        "r1-zero": Place("R1-Zero", 1, 0, "GRPO, rule rewards", "#d55e00"),
        "student-rl-only": Place("Student, RL only", 4, 0, "GRPO, rule rewards", "#cc6fa0"),
    },
)  # fmt: skip

REASONING_RL = Stage(
    "reasoning-rl", 3, "Reasoning RL", "GRPO on Dev1 with the language-consistency reward (3.2.1).",
    "gpu-train", RLConfig, MODEL_AND_PROBLEMS, Kind.checkpoint, "tasks.rl.train:run",
    nodes={"dev2": Place("Dev2", 3, 1, "GRPO + language", "#009e73")},
)  # fmt: skip

FINAL_RL = Stage(
    "final-rl", 3, "Final RL", "GRPO on Dev3 with rules, and reward models in the last steps (3.2.2).",
    "gpu-train", RLConfig, {**MODEL_AND_PROBLEMS, "reward_models": Kind.reward_models}, Kind.checkpoint,
    "tasks.rl.train:run",
    nodes={"r1": Place("R1", 5, 2, "GRPO, rules + RMs", "#1b7cc2")},
    optional={"reward_models": without_reward_models},
)  # fmt: skip
