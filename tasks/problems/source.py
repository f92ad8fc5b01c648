"""What every problem source does: it gives problems, and says which rows it refused and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from tasks.settings import NEUTRAL, Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.problem import Problem


class Drawn(NamedTuple):
    """What a source gave."""

    problems: list[Problem]
    rejected: list[dict[str, str]]
    """Rows of the table `rejected`."""


class Batch(NamedTuple):
    """A part of what a source gives, small enough to be in memory."""

    table: pa.Table
    """Of the `problems` schema."""
    rejected: list[dict[str, str]]


class Source(Settings):
    """The settings of one source; a file of `tasks/problems/sources` defines one subclass.

    `name: Literal["..."] = "..."` tells the sources apart in a preset.
    """

    name: str
    weight: Annotated[float | None, Field(gt=0, json_schema_extra=NEUTRAL)] = None
    """Share of `train` (the number of training problems of the mixture) that comes from here, relative to the
    other sources that have a weight. Without it a source gives what its own counts say."""

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

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield what `draw` gives, part by part. A source of large files overrides it and reads them so."""
        from tasks.problem import to_table

        drawn = self.draw(seed)
        yield Batch(to_table(drawn.problems), drawn.rejected)
