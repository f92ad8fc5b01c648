"""Where this machine keeps things: under `.r1`, or `$R1_HOME`."""

from __future__ import annotations

import os
from pathlib import Path

from artifacts.store import store_url


def home() -> Path:
    """`$R1_HOME`, or `.r1` here: services, logs, Prefect's database; by default store and work folders."""
    return Path(os.environ.get("R1_HOME") or ".r1").absolute()


def work_root() -> Path:
    """`$R1_WORK`, or `work` there: the folders of builds in progress (`tasks.job`)."""
    return Path(os.environ.get("R1_WORK") or home() / "work").absolute()


def absolute_store_url() -> str:
    """The store's address in a form that means the same to a process in another folder."""
    url = store_url()
    return url if "://" in url else str(Path(url).absolute())


def log(service: str) -> Path:
    """What a service of this machine (`server`, `workers`) writes."""
    return home() / "logs" / f"{service}.log"
