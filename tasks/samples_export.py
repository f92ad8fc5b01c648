"""Writes the samples of an evaluation in the formats of lm-evaluation-harness and of lighteval.

    lm-eval    OUT/MODEL/samples_TASK_DATE.jsonl and results_DATE.json, a line a question with all its samples
    lighteval  OUT/details/MODEL/DATE/details_TASK|0_DATE.parquet and OUT/results/MODEL/results_DATE.json

A task is a source of the questions, such as a benchmark; metrics are those of `question_scores` and `scores`.
Names and columns are those of lm-evaluation-harness 0.4 (`--log_samples`) and of lighteval 0.13
(`--save-details`), so that what reads theirs reads these.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.manifest import Manifest
from artifacts.tables import read_batches, read_table
from tasks.problem import Problem, from_table

_ROWS = 512
"""Samples that are read at a time."""
_DETAILS = pa.schema({
    "doc": pa.struct({
        "query": pa.string(), "choices": pa.list_(pa.string()), "gold_index": pa.list_(pa.int64()),
        "id": pa.string(), "task_name": pa.string(), "instruction": pa.string(),
        "generation_size": pa.int64(), "num_samples": pa.int64(),
    }),
    "metric": pa.map_(pa.string(), pa.float64()),
    "model_response": pa.struct({
        "input": pa.string(), "text": pa.list_(pa.string()), "text_post_processed": pa.list_(pa.string()),
    }),
})  # fmt: skip


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with all samples of it."""

    number: int
    """Of the question in its task, from 0 on."""
    problem: Problem
    samples: list[Mapping[str, Any]]
    metrics: Mapping[str, float]

    @property
    def prompt(self) -> str:
        """As sent, template applied."""
        return str(self.samples[0]["prompt"])

    @property
    def answers(self) -> list[str]:
        """The final answers that were judged; empty where there was none."""
        return [sample["answer"] or "" for sample in self.samples]


def write_lm_eval(out: Path, model: str, evaluation: Path, problems: Path, manifest: Manifest) -> list[str]:
    """Write the samples of an evaluation as lm-evaluation-harness does; returns the files, relative to `out`.

    `evaluation` and `problems` are the folders of the artifacts.
    """
    folder = out / re.sub(r'["<>:/|\\?*\[\]]+', "__", model)
    folder.mkdir(parents=True)
    date = _date(manifest)
    tasks: dict[str, int] = {}
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for question in _questions(evaluation, problems):
            task = question.problem.source
            if task not in files:
                file = folder / f"samples_{_file_name(task)}_{date}.jsonl"
                files[task] = stack.enter_context(file.open("w", encoding="utf-8"))
            files[task].write(json.dumps(_lm_eval_sample(question), ensure_ascii=False) + "\n")
            tasks[task] = question.number + 1
    results = {
        "results": {
            task: {"alias": task}
            | {f"{name},none": value for name, (value, _) in found.items()}
            | {f"{name}_stderr,none": error for name, (_, error) in found.items()}
            for task, found in _means(evaluation).items()
        },
        "configs": {task: {"task": task, "output_type": "generate_until"} for task in tasks},
        "versions": dict.fromkeys(tasks, manifest.stage_version),
        "n-shot": dict.fromkeys(tasks, 0),
        "n-samples": {task: {"original": n, "effective": n} for task, n in tasks.items()},
        "config": manifest.config,
        "model_name": model,
        "date": manifest.created_at.timestamp(),
    }
    (folder / f"results_{date}.json").write_text(json.dumps(results, indent=2, ensure_ascii=False))
    return _written(out)


def write_lighteval(out: Path, model: str, evaluation: Path, problems: Path, manifest: Manifest) -> list[str]:
    """Write the samples of an evaluation as lighteval does; arguments and result as of `write_lm_eval`."""
    date, name = _date(manifest), model.strip("/~.")
    details, results = out / "details" / name / date, out / "results" / name
    details.mkdir(parents=True)
    results.mkdir(parents=True)
    with ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}
        for question in _questions(evaluation, problems):
            task = question.problem.source
            if task not in writers:
                file = details / f"details_{_file_name(task)}|0_{date}.parquet"
                writers[task] = stack.enter_context(pq.ParquetWriter(file, _DETAILS, compression="zstd"))
            detail = pa.Table.from_pylist([_lighteval_detail(question)], schema=_DETAILS)
            writers[task].write_table(detail)
    means = {
        f"{task}|0": {n: value for n, (value, _) in found.items()}
        | {f"{n}_stderr": error for n, (_, error) in found.items()}
        for task, found in _means(evaluation).items()
    }
    document = {
        "config_general": {"model_name": model, "generation_parameters": manifest.config.get("sampling", {})},
        "results": means,
        "versions": dict.fromkeys(means, manifest.stage_version),
        "config_tasks": {task: {"name": task.partition("|")[0]} for task in means},
    }
    (results / f"results_{date}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False))
    return _written(out)


def _questions(evaluation: Path, problems: Path) -> Iterator[AnsweredQuestion]:
    """The questions in the order in which they were sampled."""
    known = {p.id: p for p in from_table(read_table(problems / "problems"))}
    metrics: dict[str, dict[str, float]] = {}
    for row in read_table(evaluation / "question_scores").to_pylist():
        metrics.setdefault(row["problem_id"], {})[row["metric"]] = row["value"]
    rows = (row for part in read_batches(evaluation / "samples", _ROWS) for row in part.to_pylist())
    numbers: dict[str, int] = {}
    for problem_id, samples in groupby(rows, itemgetter("problem_id")):
        problem = known[problem_id]
        number = numbers[problem.source] = numbers.get(problem.source, -1) + 1
        yield AnsweredQuestion(number, problem, list(samples), metrics.get(problem_id, {}))


def _lm_eval_sample(question: AnsweredQuestion) -> dict[str, Any]:
    problem, first = question.problem, question.samples[0]
    doc = {
        "id": problem.id, "question": problem.prompt, "answer": problem.answer, "domain": problem.domain,
        "level": problem.level, "language": problem.language,
    }  # fmt: skip
    sampling = {
        "do_sample": True, "temperature": first["temperature"], "top_p": first["top_p"],
        "max_gen_toks": first["max_new_tokens"], "until": [],
    }  # fmt: skip
    return {
        "doc_id": question.number,
        "doc": doc,
        "target": problem.answer,
        "arguments": {"gen_args_0": {"arg_0": question.prompt, "arg_1": sampling}},
        "resps": [[sample["completion"] for sample in question.samples]],
        "filtered_resps": [question.answers],
        "filter": "none",
        "metrics": list(question.metrics),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(question.prompt),
        "target_hash": _hash(problem.answer),
        **question.metrics,
    }


def _lighteval_detail(question: AnsweredQuestion) -> dict[str, Any]:
    problem = question.problem
    return {
        "doc": {
            "query": problem.prompt, "choices": [problem.answer], "gold_index": [0], "id": problem.id,
            "task_name": f"{problem.source}|0", "instruction": None,
            "generation_size": question.samples[0]["max_new_tokens"], "num_samples": len(question.samples),
        },
        "metric": list(question.metrics.items()),
        "model_response": {
            "input": question.prompt,
            "text": [sample["completion"] for sample in question.samples],
            "text_post_processed": question.answers,
        },
    }  # fmt: skip


def _means(evaluation: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Source -> metric -> mean and standard error, by the width of its 95% interval."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in read_table(evaluation / "scores").to_pylist():
        if row["by"] == "source":
            error = (row["high"] - row["low"]) / (2 * 1.96)
            found.setdefault(row["group"], {})[row["metric"]] = row["value"], error
    return found


def _date(manifest: Manifest) -> str:
    return manifest.created_at.replace(tzinfo=None).isoformat().replace(":", "-")


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.@-]+", "_", task) or "questions"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _written(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
