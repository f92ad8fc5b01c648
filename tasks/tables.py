"""The row-level tables that artifacts hold. One of the wrong shape is refused when it is written.

`TABLES` is given to the store when an artifact is published: it checks every `*.parquet` file against the
schema that the file's name (or, for shards, its folder) names.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tasks.registry import models
from tasks.rewards.term import Term

_STRING = pa.string()


def _schema(**columns: pa.DataType) -> pa.Schema:
    """Nullable columns are those whose type comes as a one-element tuple."""
    return pa.schema(
        [
            pa.field(name, kind[0] if isinstance(kind, tuple) else kind, nullable=isinstance(kind, tuple))
            for name, kind in columns.items()
        ]
    )


PROBLEMS = _schema(
    id=_STRING,
    domain=_STRING,  # math, code, stem, logic, general
    language=_STRING,  # en, zh
    prompt=_STRING,
    answer=_STRING,
    verifier=_STRING,  # math, choice, code, exact, reasoning_gym, instructions, judge, rubric
    verifier_args=_STRING,  # JSON object
    source=_STRING,
    licence=_STRING,
    split=_STRING,  # train, held_out
    metadata=_STRING,  # JSON object: other columns of the file that the problem came from
    level=(pa.int8(),),  # difficulty, 1 (easiest) to 5; null: not known
)


def samples_schema(terms: Sequence[str]) -> pa.Schema:
    """`samples` with a column for each reward term, null where the term does not apply."""
    return _schema(
        problem_id=_STRING,
        sample_index=pa.int32(),  # 0 .. samples per problem - 1
        step=(pa.int32(),),  # training step, null outside training
        checkpoint=_STRING,  # digest of the model that sampled
        prompt=_STRING,  # as sent, template applied
        completion=_STRING,
        thinking=(_STRING,),
        answer=(_STRING,),
        prompt_tokens=pa.int32(),
        completion_tokens=pa.int32(),
        finish_reason=_STRING,  # stop, length
        temperature=pa.float64(),
        top_p=pa.float64(),
        max_new_tokens=pa.int32(),
        seed=pa.int64(),
        engine=_STRING,  # name and version
        verdict=(_STRING,),  # correct, wrong, unparseable, timeout, error; judge-...; null: no rule applies
        reward=(pa.float64(),),  # weighted sum of the terms
        **{f"reward_{term}": (pa.float64(),) for term in terms},
    )


SAMPLES = samples_schema(list(models("tasks.rewards.terms", Term)))

SFT = _schema(
    problem_id=_STRING,
    domain=_STRING,
    language=_STRING,
    prompt=_STRING,  # template applied
    completion=_STRING,  # what the loss is on, without the end token
    question=(_STRING,),  # from which SFT renders the prompt anew where the template is `chat`
    template=(_STRING,),  # of the prompt: a name, `chat` or a text; null: read off the prompt
    source=_STRING,  # the digest of the checkpoint, or the name of the set
)

REJECTED = _schema(
    problem_id=_STRING,
    text=_STRING,
    reason=_STRING,
    detail=_STRING,
)

FUNNEL = _schema(
    position=pa.int32(),  # of the step, from 0 on
    step=_STRING,
    outcome=_STRING,  # in, kept, or the reason why rows were dropped
    rows=pa.int64(),
)

PREFERENCES = _schema(
    problem_id=_STRING,
    set=_STRING,  # helpfulness, safety
    prompt=_STRING,
    chosen=(_STRING,),  # helpfulness: the better of two; safety: null
    rejected=(_STRING,),
    response=(_STRING,),  # safety: the labelled response
    safe=(pa.bool_(),),
    margin=(pa.float64(),),
)

METRICS = _schema(
    step=pa.int32(),
    name=_STRING,  # field-standard names: loss, kl, entropy, reward, completion_length, ...
    value=pa.float64(),
)

QUESTION_SCORES = _schema(
    problem_id=_STRING,
    domain=_STRING,
    level=(pa.int8(),),
    language=_STRING,
    source=_STRING,
    metric=_STRING,  # pass_at_1, pass_at_8, cons_at_64, format, language_consistency, length, ...
    value=pa.float64(),  # of the question: over its samples
)

SCORES = _schema(
    by=_STRING,  # what `group` is one of: domain, level, language, source
    group=_STRING,  # math, 3, zh, aime24, ...; by domain also "verifiable" and "all"
    metric=_STRING,  # as in question_scores
    value=pa.float64(),  # the mean over questions
    low=pa.float64(),  # 95% interval, bootstrap over questions
    high=pa.float64(),
    questions=pa.int32(),
    samples_per_question=pa.int32(),  # the fewest, where questions have different numbers
)

TABLES: dict[str, pa.Schema] = {
    "problems": PROBLEMS,
    "samples": SAMPLES,
    "sft": SFT,
    "rejected": REJECTED,
    "funnel": FUNNEL,
    "preferences": PREFERENCES,
    "metrics": METRICS,
    "question_scores": QUESTION_SCORES,
    "scores": SCORES,
    "evaluation_metrics": METRICS,  # of the evaluation during RL; step n: of the policy after n updates
    "evaluation_samples": SAMPLES,
}
