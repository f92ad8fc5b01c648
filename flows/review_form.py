"""Human review in the Prefect UI: the run is suspended, and goes on from a form that a person fills in.

A suspended run has no process and holds no slot. Resumed, the whole flow runs again and reuses what is there.
Each question has a key of its own (`flows.review_key`), by which Prefect keeps its answer: an answer that
cannot be used is followed by the next question, which says why. Prefect suspends only runs of a deployment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field, ValidationError

from artifacts.checks import first_reason
from artifacts.errors import StoreError
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import paths
from flows.review_key import ReviewKey, parsed_key
from tasks import review
from tasks.kinds import Kind
from tasks.review import Decision, Review, ReviewError
from tasks.text_safety import for_markdown


class ReviewForm(RunInput):
    """What the form asks for."""

    decision: Literal["approve", "reject", "edit"] = Field(
        description="approve: use the set as it is. reject: fail the run. edit: use it with the rows below."
    )
    author: str = Field(min_length=1, max_length=100, description="Your name; it is recorded as claimed.")
    comment: str = Field(default="", max_length=2_000, description="Recorded too; the reason of a rejection.")
    rows: str = Field(
        default="",
        description="For edit: the path of a Parquet or JSONL file on the machine of this run's worker, or "
        'JSONL: {"row": 3, "completion": "..."} changes row 3, {"row": 3, "remove": true} removes it, '
        '{"row": null, ...} with all columns adds one.',
    )
    whole_set: bool = Field(
        default=False, description="The rows are the whole set: those that are not among them are removed."
    )


@dataclass
class Questions:
    """What this flow run has asked for and was answered."""

    store: ArtifactStore
    scope: str
    _asked: dict[tuple[str, str], int] = field(default_factory=dict)
    """(node, digest) -> how often."""
    _refusals: dict[str, str] = field(default_factory=dict)
    """Digest -> why the last answer could not be used."""

    def take_answers(self) -> None:
        """Record the answers with which this run was resumed; a decision that is in the store counts."""
        for node, digest, number in _fired():
            place = (node, digest)
            self._asked[place] = max(number, self._asked.get(place, 0))
        for (node, digest), number in self._asked.items():
            ref = Ref(kind=Kind.dataset, digest=digest)
            if review.newest(self.store, ref) is None:
                answer = suspend_flow_run(wait_for_input=ReviewForm, key=str(ReviewKey(node, digest, number)))
                self._refusals[digest] = _recorded(self.store, ref, answer)

    def ask(self, undecided: Mapping[str, Ref]) -> None:
        """Suspend this flow run until the first of these is decided; the others are asked for after that."""
        for node, ref in undecided.items():
            if review.newest(self.store, ref) is None:
                number = self._asked.get((node, ref.digest), 0) + 1
                form = ReviewForm.with_initial_data(description=self._description(node, ref))
                suspend_flow_run(wait_for_input=form, key=str(ReviewKey(node, ref.digest, number)))

    def _description(self, node: str, ref: Ref) -> str:
        refusal = self._refusals.get(ref.digest)
        lines = [
            f"**{for_markdown(f'The last answer cannot be used: {refusal}')}**" if refusal else "",
            f"Review {for_markdown(node)} of {for_markdown(self.scope)}, artifact `{ref.short}`, "
            f"{review.count_rows(self.store.fetch(ref)):,} rows. The run's artifacts show a sample as a "
            f"table; `r1 review {ref.short} --save rows.jsonl` writes all rows to edit.",
        ]
        return "\n\n".join(filter(None, lines))


def _fired() -> Iterator[ReviewKey]:
    """The questions for which this flow run was suspended before."""
    with get_client(sync_client=True) as client:
        keys = client.read_flow_run(UUID(flow_run.get_id())).empirical_policy.pause_keys or ()
    return (found for key in sorted(keys) if (found := parsed_key(key)))


def _recorded(store: ArtifactStore, ref: Ref, answer: ReviewForm) -> str:
    """Record the decision of a form; why not, where that cannot be."""
    try:
        given = Review(decision=Decision(answer.decision), author=answer.author, comment=answer.comment)
        scratch = paths.work_root() / "reviews"
        review.decide(store, ref, given, scratch, answer.rows, answer.whole_set)
    except ValidationError as error:
        return first_reason(error)
    except (ReviewError, StoreError, OSError) as error:
        return str(error)
    return ""
