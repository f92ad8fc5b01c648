"""Problems of a Python function, given by its import path.

    sources: [{name: function, call: "my_package.puzzles:problems", arguments: {size: 5}}]

The function is called with the seed and the arguments and returns (or yields) `tasks.problem.Problem`. It is
the user's own code and runs unconfined, in the job of the problems stage. Its file is not part of the cache
key: change an argument, such as a version, when it makes other problems.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue

from artifacts.keys import canonical
from tasks.problem import Problem
from tasks.problems.source import Drawn, Source


class Function(Source):
    name: Literal["function"] = "function"
    call: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """`module:function`."""
    arguments: Annotated[dict[str, JsonValue], AfterValidator(canonical)] = Field(default_factory=dict)
    """Keyword arguments beside `seed`."""

    def check(self) -> None:
        self._function()

    def draw(self, seed: int) -> Drawn:
        """Raises ValueError where it cannot be imported or returns anything but problems."""
        from tasks.problems.checking import objection

        problems: list[Problem] = []
        rejected: list[dict[str, str]] = []
        for made in self._function()(seed=seed, **self.arguments):
            if not isinstance(made, Problem):
                raise ValueError(
                    f"{self.call} made a {type(made).__name__}: it must return tasks.problem.Problem"
                )
            if reason := objection(made):
                rejected.append(
                    {"problem_id": made.id, "text": made.prompt, "reason": "unusable-row", "detail": reason}
                )
            else:
                problems.append(made)
        return Drawn(problems, rejected)

    def _function(self) -> Callable[..., Any]:
        module, _, name = self.call.partition(":")
        try:
            found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"call {self.call!r} cannot be imported ({error}): fix the path") from None
        return found
