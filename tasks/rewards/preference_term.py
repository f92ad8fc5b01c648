"""What the two preference terms share: a reward model scores the general problems of one set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tasks.rewards.term import Resources, Scorer, Scoring, Term, Values


class PreferenceTerm(Term):
    """A term whose value a model of the `reward-models` stage gives, 0 to 1."""

    problem_set: ClassVar[str]
    """Which general problems it scores: their `verifier_args["set"]`."""
    needs_reward_models: ClassVar[bool] = True

    def scorer(self, resources: Resources) -> Scorer:
        if resources.reward_models is None:
            raise ValueError(
                f"reward term {self.name} needs reward models and none was given: pass the output of the "
                "reward-models stage (the stage final-rl has that input), or remove the term from `rewards`"
            )
        from tasks.rewards.preference_models import preference_scorer

        score = preference_scorer(resources.reward_models, self.name, resources.template)

        def values(rows: Sequence[Scoring]) -> Values:
            mine = [i for i, row in enumerate(rows) if self._scores(row)]
            scores = score([rows[i] for i in mine]) if mine else []
            found = dict(zip(mine, scores, strict=True))
            return [found.get(i) for i in range(len(rows))]

        return values

    def _scores(self, row: Scoring) -> bool:
        return row.problem.verifier_args.get("set") == self.problem_set
