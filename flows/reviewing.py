"""What a pipeline may use of a data set that a person reviews. No Prefect."""

from __future__ import annotations

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from tasks.presets import PresetError
from tasks.review import Decision, Recorded, newest


class NotReviewed(PresetError):
    """A data set that no person has decided on yet."""


class SetRejected(PresetError):
    """A data set that a person rejected; one line with the reason."""


def settled(store: ArtifactStore, node: str, ref_name: str, ref: Ref) -> Ref:
    """The artifact that stands for the node after its review, which bears the node's name from now on.

    Raises:
        NotReviewed: there is no decision on this artifact.
        SetRejected: the newest one rejects it.
    """
    found = newest(store, ref)
    if found is None:
        raise NotReviewed(
            f"{node} waits for its review: decide with `r1 review {ref_name}` (--approve, --reject or "
            "--rows), then go on"
        )
    refuse_rejected(node, found)
    store.set_ref(ref_name, found.result)
    return found.result


def refuse_rejected(node: str, found: Recorded) -> None:
    """Raises SetRejected where that is what was decided."""
    if found.review.decision == Decision.reject:
        raise SetRejected(
            f"{node} was {found.sentence} (change what makes it, or overrule that by `r1 review`)"
        )
