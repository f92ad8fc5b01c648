"""Every setting of every stage, checked before anything starts.

A preset (`configs/NAME.yaml`) is one `Preset`. Unknown keys, values out of range and batches that do
not divide are refused with the file, the key, the value and the remedy (`tasks.presets`).
Defaults are the published values (Nature Methods, arXiv 2501.12948v2 sections 2.1, 3.2, B.4).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from tasks.rendering import Template

DomainName = Literal["math", "code", "stem", "logic", "general"]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

VOLATILE = {"volatile": True}
"""`json_schema_extra` of fields that change how a result is computed but not what it is."""
NEUTRAL = {"neutral_default": True}
"""`json_schema_extra` of fields that decide nothing at their default: results made before them stay valid."""


class Settings(BaseModel):
    """Frozen; unknown keys are errors; finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def cache_document(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values (nested; volatile fields left out)."""
        return {
            name: value.cache_document() if isinstance(value := getattr(self, name), Settings) else dumped
            for name, dumped in self.model_dump(mode="json").items()
            if not self._decides_nothing(name)
        }

    def _decides_nothing(self, name: str) -> bool:
        field = type(self).model_fields[name]
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        at_default = getattr(self, name) == field.default
        return bool(marks.get("volatile") or (marks.get("neutral_default") and at_default))


class EngineSettings(Settings):
    """Which rollout engine samples."""

    name: Literal["transformers", "vllm", "vllm-server"] = "transformers"
    batch_size: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 256
    """Sequences decoded at once (transformers engine)."""
    gpu_memory_share: Annotated[float, Field(gt=0, le=0.95, json_schema_extra=VOLATILE)] = 0.45
    """Share of the GPU's memory that vLLM takes."""
    server_url: Annotated[str, Field(json_schema_extra=VOLATILE)] = ""
    """`vllm-server` only: the server's address (`tasks.rollout.vllm_server` says how to start one)."""


class Sampling(Settings):
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive = 32_768


Count = Annotated[int, Field(ge=0)]


class GymTask(Settings):
    """Problems of one reasoning-gym dataset."""

    domain: Literal["math", "code", "stem", "logic"]
    train: Count
    held_out: Count
    settings: dict[str, JsonValue] = {}
    """The dataset's own settings, e.g. `{max_terms: 3, max_digits: 2}`; its defaults for the rest."""


class ProblemsConfig(Settings):
    """Where the problems come from (paper B.3.1, Table 4)."""

    source: Literal["tiny-world", "reasoning-gym", "parquet"] = "parquet"
    path: str = ""
    """`parquet`: a file or folder of the `problems` schema, absolute or relative to the repository."""
    tasks: Annotated[dict[str, GymTask], Field(json_schema_extra=NEUTRAL)] = {}
    """`reasoning-gym`: its datasets by name."""
    train: dict[DomainName, Count] = {}
    """`tiny-world`: how many training problems of each domain; beside `reasoning-gym`, which has no
    general problems, the tiny world can give some."""
    held_out: dict[DomainName, Count] = {}
    """`tiny-world`: how many questions of each domain no stage trains on."""
    decontamination_ngram: Positive = 10
    """Training problems that share an n-gram of this many words with a held-out one are rejected."""
    seed: int = 0

    @model_validator(mode="after")
    def _a_source_has_what_it_needs(self) -> Self:
        if self.source == "parquet" and not self.path:
            raise ValueError("source 'parquet' needs `path`: a Parquet file of the problems schema")
        if self.source == "tiny-world" and not (self.train and self.held_out):
            raise ValueError("source 'tiny-world' needs `train` and `held_out`: how many problems a domain")
        if self.source == "reasoning-gym" and not self.tasks:
            raise ValueError("source 'reasoning-gym' needs `tasks`: its datasets by name, with their sizes")
        if self.source != "reasoning-gym" and self.tasks:
            raise ValueError(f"`tasks` are reasoning-gym's and the source is {self.source!r}: remove one")
        return self


class BaseConfig(Settings):
    """The model that everything starts from."""

    model: str
    """A folder (absolute or relative to the repository), a hub name, or `smollm2-135m` (the PyPI package)."""
    revision: str = "main"
    """Hub models only; part of the cache key, so pin a commit."""
    context: Annotated[int | None, Field(ge=1, json_schema_extra=NEUTRAL)] = None
    """Positions (tokens) to give the model instead of its own number, for models with rotary positions:
    Qwen2.5-Math comes with 4,096, and the paper fine-tunes it at 32,768."""


RewardName = Literal["accuracy", "format", "language", "helpful", "safety", "repetition", "overlength"]


class RewardTerm(Settings):
    """One summand of the reward (Eq. 4, 7-10)."""

    name: RewardName
    weight: Annotated[float, Field(gt=0)] = 1.0
    last_steps: Annotated[int | None, Field(ge=1)] = None
    """Active only in the last N steps (final RL: preference rewards in the last 400)."""


class CodeChecking(Settings):
    """A stage that runs the model's programs."""

    allow_weak_sandbox: Annotated[bool, Field(json_schema_extra=VOLATILE)] = False
    """Run them even where this machine's kernel lacks a layer that the sandbox needs (`r1 doctor` shows
    them): they could then read files, use the network or reach other processes."""


class LengthStep(Settings):
    """From `step` on, completions may have `max_completion_length` tokens."""

    step: Annotated[int, Field(ge=0)]
    max_completion_length: Positive


class LoraSettings(Settings):
    """Low-rank adapters instead of all weights; merged into the published checkpoint."""

    rank: Positive = 16
    alpha: Positive = 32
    targets: str = "all-linear"
    """PEFT's `target_modules`: `all-linear`, or a regular expression of module names."""


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


class LaunchSettings(Settings):
    """How many processes train one model, and what they share (through Accelerate)."""

    processes: Positive = 1
    """On this machine; one a GPU."""
    strategy: Literal["ddp", "fsdp2", "deepspeed-zero2", "deepspeed-zero3"] = "ddp"
    """`ddp`: every process holds the whole model. The others share optimiser states, gradients or weights."""


_BIASED = ("top_p", "top_k", "min_p", "typical_p")


class RLConfig(CodeChecking):
    """GRPO as published (Eq. 1-3; Methods): rl-zero, reasoning-rl, final-rl and the RL-only student."""

    template: Template = "r1"
    """How a question becomes a prompt: `r1` is the paper's Table 1, `plain` that without its preamble,
    `r1-few-shot` adds three worked examples (`tasks.rendering`)."""
    domains: tuple[DomainName, ...] = ("math", "code", "stem", "logic")
    """Which training problems are asked."""
    steps: Positive = 10_400
    """Policy updates."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """G: outputs drawn for one question, whose rewards are compared with each other."""
    questions_per_step: Positive = 32
    """Different questions in one policy update."""
    mini_batches_per_rollout: Positive = 16
    """Policy updates made from one rollout, each sample used once (8,192 = 16 x 512)."""
    micro_batch_size: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 16
    """Completions in one forward and backward pass on one device."""
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
    rewards: tuple[RewardTerm, ...] = (RewardTerm(name="accuracy"), RewardTerm(name="format"))
    """The terms that add up to the reward, each with a weight (1) and, if wanted, only in the last steps."""
    partial_credit: Annotated[bool, Field(json_schema_extra=NEUTRAL)] = False
    """The accuracy term of a code problem is the share of its cases that pass, not 1 for all and else 0."""
    repetition_ngram: Annotated[Positive, Field(json_schema_extra=NEUTRAL)] = 8
    """The `repetition` term: minus the share of a completion's runs of so many words that are repeats."""
    overlength_buffer: Annotated[Positive, Field(json_schema_extra=NEUTRAL)] = 4_096
    """The `overlength` term (DAPO's): falls from 0 to -1 over so many tokens before the limit."""
    general_last_steps: Annotated[int | None, Field(ge=1)] = None
    """General prompts enter only in the last N steps (final RL: 400)."""
    general_share: Share = 0.5
    """Share of general prompts in a step once they have entered."""
    bf16: bool = False
    """Mixed precision; the weights stay in float32."""
    engine: EngineSettings = EngineSettings()
    """What draws the outputs."""
    checkpoint_every: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 50
    """Updates between two places to resume from."""
    seed: int = 0
    """Of the prompt order and the draws."""
    loss: Annotated[Literal["grpo", "dapo", "dr_grpo"], Field(json_schema_extra=NEUTRAL)] = "grpo"
    """`grpo`: mean over a response's tokens, then over responses (Eq. 1). `dapo`: mean over all tokens.
    `dr_grpo`: a response's sum over the length limit, advantages not divided by the deviation."""
    refill_rounds: Annotated[Count, Field(json_schema_extra=NEUTRAL)] = 0
    """Dynamic sampling: groups whose rewards are all equal are drawn again from other problems, at most so
    many times a rollout. 0: never."""
    skip_zero_advantage: Annotated[bool, Field(json_schema_extra=NEUTRAL)] = False
    """No forward and backward pass (nor the reference's) on groups whose rewards are all equal; their KL term
    is then lost.
    Where `kl_coef` is 0 nothing is lost and they are skipped anyway."""
    curriculum: Annotated[Curriculum | None, Field(json_schema_extra=NEUTRAL)] = None
    """Problems by the starting checkpoint's own pass rate, a range per stage of steps."""
    lora: Annotated[LoraSettings | None, Field(json_schema_extra=NEUTRAL)] = None
    """Adapters through PEFT instead of all weights; the reference is then the base and does not move."""
    publish: Annotated[Literal["last", "best"], Field(json_schema_extra=NEUTRAL)] = "last"
    """`best`: the checkpoint with the highest mean reward over the ten steps before it."""
    keep_checkpoints: Annotated[int, Field(ge=2, json_schema_extra=VOLATILE)] = 2
    """How many are kept; the best one beside them where it is to be published."""
    mismatch_limit: Annotated[float, Field(gt=0, json_schema_extra=VOLATILE)] = 0.1
    """Nats between the sampler's and the trainer's log-probability of a token, in the mean: above it the
    start-up canary stops the run and a health line is written."""
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
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide questions_per_step x group_size = "
                f"{self.batch_size}: choose a divisor"
            )
        if [s.step for s in self.length_schedule] != sorted({s.step for s in self.length_schedule}):
            raise ValueError("length_schedule must have rising, distinct steps: sort it")
        if len({t.name for t in self.rewards}) != len(self.rewards):
            raise ValueError("rewards names a term twice: give each term once with one weight")
        return self

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Self:
        share, rest = divmod(self.batch_size, self.launch.processes)
        if rest or share % self.micro_batch_size:
            raise ValueError(
                f"launch.processes {self.launch.processes} leaves {share} completions a process, which "
                f"micro_batch_size {self.micro_batch_size} must divide: change one of them"
            )
        if (self.refill_rounds or self.skip_zero_advantage) and share % self.group_size:
            raise ValueError(
                f"launch.processes {self.launch.processes} would split groups of {self.group_size}, and "
                "refill_rounds and skip_zero_advantage need whole ones: use fewer processes"
            )
        if self.launch.strategy.startswith("deepspeed") and self.engine.name == "transformers":
            raise ValueError(
                f"launch.strategy {self.launch.strategy} cannot sample with engine transformers: set "
                "engine.name to vllm or vllm-server, or the strategy to fsdp2"
            )
        return self


class SFTConfig(Settings):
    """Supervised fine-tuning (B.4.2) and distillation (B.4.3)."""

    epochs: Annotated[float, Field(gt=0, le=20)] = 2
    """Passes over the table."""
    batch_size: Positive = 128
    """Rows in one update."""
    micro_batch_size: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 8
    """Rows in one forward and backward pass."""
    learning_rate: Annotated[float, Field(gt=0, le=1e-2)] = 5e-5
    """At its highest, after the warm-up."""
    min_learning_rate_ratio: Share = 0.1
    """Cosine decay ends at this share of the first learning rate (5e-5 -> 5e-6)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Updates in which the learning rate rises from 0."""
    max_length: Positive = 32_768
    """Tokens of prompt and completion; longer rows are left out and counted."""
    bf16: bool = False
    """Mixed precision; the weights stay in float32."""
    checkpoint_every: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 200
    """Updates between two places to resume from."""
    seed: int = 0
    """Of the order of the rows."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}: "
                "choose a divisor"
            )
        return self


class Readability(Settings):
    """When a trace is readable (B.3.2, B.3.3; the thresholds are not published)."""

    language_consistency: Share = 0.9
    """At least this share of the thinking's words is in the question's language (after refinement)."""
    repetition_ngram: Positive = 8
    max_repeats: Positive = 3
    """No n-gram of the thinking occurs more often."""
    max_paragraph_words: Positive = 400
    allow_code_in_thinking: bool = False


class ColdStartConfig(CodeChecking):
    """Cold-start curation from R1-Zero's samples (B.3.2)."""

    template: Template = "r1"
    domains: tuple[DomainName, ...] = ("math", "code", "stem", "logic")
    problems: Positive = 4_000
    """How many training problems are sampled."""
    samples_per_problem: Positive = 4
    sampling: Sampling = Sampling()
    keep_per_problem: Positive = 1
    refiner: Literal["lexicon", "none"] = "none"
    """`lexicon`: the tiny world's word-by-word translator stands in for DeepSeek-V3 and the annotators."""
    readability: Readability = Readability()
    engine: EngineSettings = EngineSettings()
    seed: int = 1


class RejectionSamplingConfig(CodeChecking):
    """The 800k-style mixture: verified reasoning traces from Dev2 and general data (B.3.3, Table 5)."""

    template: Template = "r1"
    domains: tuple[DomainName, ...] = ("math", "code", "stem", "logic")
    problems: Positive = 80_000
    samples_per_problem: Positive = 16
    sampling: Sampling = Sampling()
    keep_per_problem: Positive = 8
    general_share: Share = 0.22
    """Share of general samples in the mixture (177,812 of 804,745)."""
    readability: Readability = Readability()
    engine: EngineSettings = EngineSettings()
    seed: int = 2


class RewardModelsConfig(Settings):
    """Helpful and safety reward models (Methods; B.2)."""

    template: Template = "r1"
    prompts: Positive = 66_000
    """General training prompts to sample responses for."""
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4
    sampling: Sampling = Sampling()
    judgments_per_pair: Positive = 4
    min_margin: Annotated[float, Field(ge=0)] = 1.0
    judge: Literal["rubric"] = "rubric"
    """`rubric`: the problem's own checklist stands in for the Arena-Hard judge."""
    batch_size: Positive = 256
    micro_batch_size: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 8
    learning_rate: Annotated[float, Field(gt=0, le=1e-2)] = 6e-6
    epochs: Annotated[float, Field(gt=0, le=20)] = 1
    max_length: Positive = 8_192
    engine: EngineSettings = EngineSettings()
    seed: int = 3


class EvaluateConfig(CodeChecking):
    """One protocol for every checkpoint (D.1): temperature 0.6, top-p 0.95, several samples a question."""

    template: Template = "r1"
    problems_per_domain: Positive = 500
    """Held-out problems of each domain (all, where there are fewer)."""
    samples_per_problem: Positive = 16
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95)
    engine: EngineSettings = EngineSettings()
    seed: int = 4


class ReportConfig(Settings):
    """The report has no settings: it shows what its inputs hold."""


class StudentConfig(Settings):
    """One student: its base and how it is fine-tuned (`configs/students/NAME.yaml`; B.4.3)."""

    base: BaseConfig
    distill: SFTConfig = SFTConfig(batch_size=64)


class Preset(Settings):
    """The whole pipeline in one file."""

    problems: ProblemsConfig
    base: BaseConfig
    rl_zero: RLConfig
    cold_start: ColdStartConfig
    dev1: SFTConfig
    reasoning_rl: RLConfig
    rejection_sampling: RejectionSamplingConfig
    dev3: SFTConfig
    reward_models: RewardModelsConfig
    final_rl: RLConfig
    student: str
    """A file of `configs/students`, without `.yaml`."""
    student_rl: RLConfig
    """The control: RL alone on the student's base (F.1)."""
    evaluate: EvaluateConfig
    report: ReportConfig = ReportConfig()
