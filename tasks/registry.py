"""Rooms whose modules are all of one kind: reward terms, verifiers, problem sources, refiners.

Such a package has a file for each entry and no list of them: a new file is found by itself. The modules are
imported when a preset is checked, so they import heavy packages (torch, reasoning-gym) inside functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache, reduce
from operator import or_
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import Field

from tasks.settings import Settings

Model = TypeVar("Model", bound=Settings)


@cache
def modules(package: str) -> dict[str, ModuleType]:
    """The modules of a package by name, sorted, so that nothing depends on the order of a folder."""
    folder = importlib.import_module(package).__path__
    names = sorted(found.name for found in pkgutil.iter_modules(folder))
    return {name: importlib.import_module(f"{package}.{name}") for name in names}


def models(package: str, base: type[Model]) -> dict[str, type[Model]]:
    """The settings model that each module of a package defines, by the value of the model's field `name`."""
    found: dict[str, type[Model]] = {}
    for module in modules(package).values():
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__:
                found[value.model_fields["name"].default] = value
    return found


def any_of(package: str, base: type[Model]) -> Any:
    """The type of a setting that takes the settings of any module of a package, told apart by `name`."""
    known = tuple(models(package, base).values())
    return Annotated[reduce(or_, known), Field(discriminator="name")] if len(known) > 1 else known[0]
