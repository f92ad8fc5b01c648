"""What every problem source does: it gives problems, and says which rows it refused and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.problem import Problem


class Drawn(NamedTuple):
    """What a source gave."""

    problems: list[Problem]
    rejected: list[dict[str, str]]
    """Rows of the table `rejected`."""


class Source(Settings):
    """The settings of one source; a file of `tasks/problems/sources` defines one subclass.

    `name: Literal["..."] = "..."` tells the sources apart in a preset.
    """

    name: str

    def check(self) -> None:
        """Refuse what can be seen at once, before a run starts; called where the files are known to exist.

        Raises:
            ValueError: one sentence that continues after the source's name.
        """

    def peek(self) -> list[Problem] | None:
        """The problems as they stand in files, before any is tried or left out; None where they are made.

        Raises:
            ValueError: as `draw`.
        """
        return None

    def draw(self, seed: int) -> Drawn:
        """The problems, a pure function of the settings and the seed.

        Raises:
            ValueError: the source cannot give what is asked for; one sentence that names the setting.
        """
        raise NotImplementedError
