"""The model card of an exported checkpoint: what a user needs, all of it read from manifests and tables.

What was not recorded is said to be unknown or left out; nothing is guessed from a name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from artifacts.errors import StoreError
from artifacts.lineage import Lineage, lineage
from artifacts.manifest import Manifest
from artifacts.store import ArtifactStore
from artifacts.tables import read_table
from tasks.kinds import Kind
from tasks.problem import group_name
from tasks.text_safety import for_markdown, for_page

MAX_TEMPLATE = 4_000
"""Characters shown of a chat template."""
UNKNOWN = "not recorded"


@dataclass(frozen=True)
class ScoreRow:
    """A row of a `scores` table."""

    by: str
    group: str
    metric: str
    value: float
    low: float
    high: float
    questions: int
    samples_per_question: int


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of the checkpoint and its scores."""

    manifest: Manifest
    scores: Sequence[ScoreRow]


@dataclass(frozen=True)
class DataSource:
    """Where problems of the lineage come from."""

    source: str
    licence: str
    problems: int


@dataclass(frozen=True)
class CardFacts:
    """What the card says, before its words."""

    manifest: Manifest
    graph: Lineage
    base: Manifest | None
    """The model that the weights descend from."""
    template: str
    """Name of the prompt template of training (setting `template`); empty where no ancestor has one."""
    chat_template: str
    """The file in the folder."""
    generation: Mapping[str, object]
    """The sampling defaults in the folder."""
    sources: Sequence[DataSource]
    evaluated: Evaluated | None


def gather(
    store: ArtifactStore,
    manifest: Manifest,
    chat_template: str,
    generation: Mapping[str, object],
    evaluated: Evaluated | None,
) -> CardFacts:
    """Read the lineage of a checkpoint and its problems from the store."""
    graph = lineage(store, manifest.ref)
    ancestors = _read(store, graph)
    first = _first_ancestor(manifest, ancestors)
    return CardFacts(
        manifest=manifest,
        graph=graph,
        base=first if first.stage == "base" else None,
        template=_trained_template(ancestors),
        chat_template=chat_template,
        generation=generation,
        sources=_sources(store, ancestors.values()),
        evaluated=evaluated,
    )


def trained_template(store: ArtifactStore, manifest: Manifest) -> str:
    """Return the prompt template that a checkpoint was trained with; empty where no ancestor has one."""
    return _trained_template(_read(store, lineage(store, manifest.ref)))


def _trained_template(ancestors: Mapping[str, Manifest]) -> str:
    templates = (m.config.get("template") for m in reversed(list(ancestors.values())))
    return str(next(filter(None, templates), ""))


def model_card(facts: CardFacts) -> str:
    """The README of the folder, in Markdown with the head that the Hugging Face hub reads."""
    manifest = facts.manifest
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    made = f"{manifest.seconds:,.0f} s, {manifest.accelerator_hours:.3g} accelerator-hours"
    return "\n".join(
        [
            *_head(facts), "",
            f"# {for_markdown(manifest.node)} ({for_markdown(manifest.preset) or 'no preset'})", "",
            f"Made by stage `{for_markdown(manifest.stage)}` (version {manifest.stage_version}) of the "
            f"DeepSeek-R1 recipe in {made}, on {manifest.created_at:%Y-%m-%d}.", "",
            *_base_lines(facts.base), f"- artifact: `{manifest.digest}`",
            f"- code: `{manifest.code_revision or 'unknown'}`", f"- libraries: {versions or 'unknown'}", "",
            "## Use", "", *_usage(facts), "",
            "## Prompt and sampling", "", *_prompt(facts), "",
            "## Scores", "", *_score_lines(facts.evaluated), "",
            "## Data", "", *_data(facts.sources), "",
            "## Lineage", "", "```text", facts.graph.tree(), "```", "",
            "```mermaid", facts.graph.mermaid(), "```", "",
            "## Settings of this stage", "", "```json",
            json.dumps(manifest.config, indent=2, sort_keys=True, ensure_ascii=False), "```", "",
        ]
    )  # fmt: skip


def _read(store: ArtifactStore, graph: Lineage) -> dict[str, Manifest]:
    """The manifests of the lineage that the store has, by digest, parents before children."""
    found = {}
    for digest in graph.nodes:
        try:
            found[digest] = store.manifest(digest)
        except StoreError:  # the tree of the lineage calls it missing or damaged
            continue
    return found


def _first_ancestor(manifest: Manifest, ancestors: Mapping[str, Manifest]) -> Manifest:
    """The checkpoint that the weights of `manifest` descend from, as far back as the store goes."""
    while (parent := manifest.parents.get("checkpoint")) and parent.digest in ancestors:
        manifest = ancestors[parent.digest]
    return manifest


def _sources(store: ArtifactStore, ancestors: Iterable[Manifest]) -> list[DataSource]:
    """Source and licence of the training problems of the lineage, by the number of problems."""
    counts: Counter[tuple[str, str]] = Counter()
    for problems in (m for m in ancestors if m.kind == Kind.problems and "problems" in m.tables()):
        table = read_table(store.fetch(problems.ref) / "problems", ["source", "licence", "split"])
        rows = zip(*(table[name].to_pylist() for name in ("source", "licence", "split")), strict=True)
        counts.update((source, licence) for source, licence, split in rows if split == "train")
    return [DataSource(source, licence, n) for (source, licence), n in counts.most_common()]


def _head(facts: CardFacts) -> list[str]:
    """The YAML head; the base only where its name is one of the hub's."""
    head: dict[str, str] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if facts.base and "revision" in facts.base.summary:  # only a model of the hub has a commit
        head["base_model"] = str(facts.base.summary["model"])
    return ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(), "---"]


def _base_lines(base: Manifest | None) -> list[str]:
    if base is None:
        return [f"- base: {UNKNOWN}"]
    said = base.summary
    revision = f", revision `{for_markdown(str(said['revision']))}`" if "revision" in said else ""
    lines = [
        f"- base: {for_markdown(str(base.config.get('model', UNKNOWN)))}{revision}",
        f"- licence of the base: {for_markdown(str(said.get('licence', UNKNOWN)))}",
    ]
    if "parameters" in said:
        lines.append(f"- parameters: {int(said['parameters']):,}")
    return lines


def _usage(facts: CardFacts) -> list[str]:
    tokens = _longest(facts)
    return [
        "`FOLDER` is this folder; the sampling settings come from its `generation_config.json`.", "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        'chat = [{"role": "user", "content": "What is 17 + 25?"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        f"output = model.generate(**inputs, max_new_tokens={tokens})",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:]))',
        "```", "",
        "```python",
        "from vllm import LLM", "",
        'llm = LLM("FOLDER")',
        "sampling = llm.get_default_sampling_params()",
        f"sampling.max_tokens = {tokens}",
        'chat = [{"role": "user", "content": "What is 17 + 25?"}]',
        "print(llm.chat(chat, sampling)[0].outputs[0].text)",
        "```",
    ]  # fmt: skip


def _longest(facts: CardFacts) -> int:
    """Tokens of a completion: as evaluated, else as trained, else a number that any model has room for."""
    evaluated = facts.evaluated.manifest.config.get("sampling", {}) if facts.evaluated else {}
    trained = facts.manifest.config.get("max_completion_length")
    return int(evaluated.get("max_new_tokens") or trained or 256)


def _prompt(facts: CardFacts) -> list[str]:
    name = f"`{for_markdown(facts.template[:80])}`" if facts.template else UNKNOWN
    defaults = ", ".join(f"{k} {v}" for k, v in facts.generation.items())
    shown = for_page(facts.chat_template.rstrip("\n"))
    cut = [f"… and {len(shown) - MAX_TEMPLATE:,} more characters"] if len(shown) > MAX_TEMPLATE else []
    fence = "`" * max(3, 1 + max(map(len, _runs_of_backticks(shown)), default=0))
    return [
        f"- prompt template of training: {name}; `chat_template.jinja` renders it",
        f"- sampling defaults (`generation_config.json`, the published evaluation protocol): {defaults}", "",
        f"{fence}jinja", shown[:MAX_TEMPLATE], fence, *cut,
    ]  # fmt: skip


def _runs_of_backticks(text: str) -> list[str]:
    return "".join(c if c == "`" else " " for c in text).split()


def _score_lines(evaluated: Evaluated | None) -> list[str]:
    if evaluated is None:
        return ["No evaluation of this checkpoint is in the store."]
    config = evaluated.manifest.config
    sampling = ", ".join(f"{k} {v}" for k, v in sorted(config.get("sampling", {}).items()))
    return [
        f"Means over held-out questions with 95% intervals; sampling: {for_markdown(sampling) or UNKNOWN}.",
        "",
        "| questions of | metric | value | 95% interval | questions | samples a question |",
        "| --- | --- | ---: | --- | ---: | ---: |",
        *(
            f"| {for_markdown(group_name(s.by, s.group))} | {for_markdown(s.metric)} | {s.value:.3f} "
            f"| {s.low:.3f} to {s.high:.3f} | {s.questions} | {s.samples_per_question} |"
            for s in evaluated.scores
        ),
    ]


def _data(sources: Sequence[DataSource]) -> list[str]:
    if not sources:
        return ["No problems in the lineage of this checkpoint are in the store."]
    return [
        "Training problems in the lineage, by source, with the licence that came with them.", "",
        "| source | licence | problems |", "| --- | --- | ---: |",
        *(
            f"| {for_markdown(s.source) or UNKNOWN} | {for_markdown(s.licence) or UNKNOWN} | {s.problems:,} |"
            for s in sources
        ),
    ]  # fmt: skip
