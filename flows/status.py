"""The record of one pipeline run that others may watch: `<work root>/runs/<flow run id>.json`. No Prefect."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from artifacts.refs import Ref
from flows import paths
from tasks.job import write_json

State = Literal["waiting", "running", "cached", "done", "failed"]


class NodeStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    node: str
    state: State = "waiting"
    key: str = ""
    """Known once the node has started; its work folder holds the progress record."""
    ref: Ref | None = None
    began: float = 0.0
    """Seconds since the epoch."""
    ended: float = 0.0
    reason: str = ""


class RunStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    flow_run: str
    preset: str
    nodes: dict[str, NodeStatus]
    reason: str = ""
    """Why the run failed, one line."""

    @property
    def settled(self) -> bool:
        """Whether nothing more will be built."""
        return bool(self.reason) or all(node.state in ("cached", "done") for node in self.nodes.values())

    @classmethod
    def read(cls, flow_run: str) -> RunStatus | None:
        """None before the run has begun."""
        try:
            return cls.model_validate_json(record_path(flow_run).read_bytes())
        except FileNotFoundError:
            return None


def record_path(flow_run: str) -> Path:
    return paths.runs() / f"{flow_run}.json"


class StatusRecord:
    """Writes the record at every change; each node has one state at a time."""

    def __init__(self, flow_run: str, preset: str, nodes: Iterable[str]) -> None:
        self.status = RunStatus(
            flow_run=flow_run, preset=preset, nodes={name: NodeStatus(node=name) for name in nodes}
        )
        record_path(flow_run).parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def cached(self, node: str, key: str, ref: Ref) -> None:
        self._set(NodeStatus(node=node, state="cached", key=key, ref=ref))

    def running(self, node: str, key: str) -> None:
        self._set(NodeStatus(node=node, state="running", key=key, began=time.time()))

    def done(self, node: str, ref: Ref) -> None:
        now = {"state": "done", "ref": ref, "ended": time.time()}
        self._set(self.status.nodes[node].model_copy(update=now))

    def failed(self, node: str, reason: str) -> None:
        now = {"state": "failed", "reason": reason, "ended": time.time()}
        self._set(self.status.nodes[node].model_copy(update=now))

    def failed_run(self, reason: str) -> None:
        self.status = self.status.model_copy(update={"reason": reason})
        self._write()

    def _set(self, node: NodeStatus) -> None:
        self.status = self.status.model_copy(update={"nodes": {**self.status.nodes, node.node: node}})
        self._write()

    def _write(self) -> None:
        write_json(record_path(self.status.flow_run), self.status.model_dump(mode="json"))
