"""What `r1 distill STUDENT` settles before any work: the settings, whose mixture, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import doctor
from tasks.presets import StudentConfig, available, load_student, preset_name, student_name


@dataclass(frozen=True)
class Distillation:
    student: str
    config: StudentConfig
    preset: str
    """A name or a path."""
    mixture: Ref | None
    missing: str
    """What is missing and what to do; empty where nothing is."""

    @property
    def ref_name(self) -> str:
        return f"{preset_name(self.preset)}/{self.student}-distilled"

    def describe(self) -> str:
        """The resolved settings, one line each."""
        sft, base = self.config.distill, self.config.base
        mixture = self.mixture.short if self.mixture else "not made yet"
        lowest = sft.learning_rate * sft.min_learning_rate_ratio
        return "\n".join(
            (
                f"student     {self.student}",
                f"base        {base.model} at {base.revision}",
                f"lr          {sft.learning_rate:g}, cosine to {lowest:g}",
                f"batch       {sft.batch_size}",
                f"epochs      {sft.epochs:g}",
                f"context     {sft.max_length:,} tokens",
                f"mixture     {preset_name(self.preset)}/mixture, {mixture}",
            )
        )


def settle(student: str, preset: str, store: ArtifactStore) -> Distillation:
    """The student on the mixture of `preset`, or on the newest mixture of any preset.

    Raises:
        PresetError: no such student, or its settings do not fit.
    """
    config = load_student(student)
    chosen = preset or _preset_with_newest_mixture(store)
    mixture = store.get_ref(f"{preset_name(chosen)}/mixture")
    missing = _missing(config, chosen, mixture, store)
    return Distillation(student_name(student), config, chosen, mixture, missing)


def _preset_with_newest_mixture(store: ArtifactStore) -> str:
    """Of the shipped presets; that of a file cannot be found by the names that it gave."""
    known = {f"{name}/mixture": name for name in available()}
    mixtures = [named for name, named in store.refs().items() if name in known]
    newest = max(mixtures, key=lambda named: named.updated_at, default=None)
    return known[newest.name] if newest else "tiny"


def _missing(config: StudentConfig, preset: str, mixture: Ref | None, store: ArtifactStore) -> str:
    base, problems = config.base, []
    if base.on_hub and not doctor.gpu_names():
        problems.append("there is no GPU here, use a machine with one")
    if base.on_hub and not doctor.on_this_machine(base.model) and not doctor.hub_reachable():
        problems.append(f"{base.model} is not here and the hub is out of reach, connect or set HF_ENDPOINT")
    if mixture is None:
        others = [name for name in store.ref_names() if name.endswith("/mixture")]
        there = f" (there is {', '.join(others)}: name its preset file by --preset)" if others else ""
        problems.append(f"preset {preset} has no mixture yet, `r1 run --preset {preset}` makes one{there}")
    return "; and ".join(problems)
