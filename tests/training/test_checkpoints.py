"""Which checkpoint a run resumes from."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.training import checkpoints
from tasks.training.checkpoints import (
    best_checkpoint,
    checkpoint_step,
    is_sealed,
    make_room,
    newest_checkpoint,
    seal,
)


def checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"w" * 100)
    (path / "trainer_state.json").write_text("{}")
    if sealed:
        seal(path)
    return path


def test_the_newest_by_number_wins(tmp_path):
    for step in (9, 10, 2):
        checkpoint(tmp_path, step)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert checkpoint_step(newest) == 10


def test_nothing_to_resume_from(tmp_path):
    assert newest_checkpoint(tmp_path / "never-made") is None
    checkpoint(tmp_path, 5, sealed=False)
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "missing", "unsealed"])
def test_a_torn_checkpoint_is_passed_over_and_removed(tmp_path, damage):
    good, torn = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4, sealed=damage != "unsealed")
    if damage == "cut":
        (torn / "model.safetensors").write_bytes(b"w" * 99)
    if damage == "missing":
        (torn / "trainer_state.json").unlink()
    assert not is_sealed(torn)
    assert newest_checkpoint(tmp_path) == good
    assert not torn.exists()


def test_the_best_is_the_one_with_the_highest_reward_before_it(tmp_path):
    rewards = [0.1] * 10 + [0.9] * 10 + [0.5] * 10
    log = [{"step": n + 1, "reward": r} for n, r in enumerate(rewards)] + [{"step": 30, "train_loss": 1.0}]
    for step in (10, 20, 30):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 15, sealed=False)
    assert best_checkpoint(tmp_path, log) == tmp_path / "checkpoint-20"
    assert best_checkpoint(tmp_path, []) is None
    # After 20 updates other questions entered, which earn less.
    assert best_checkpoint(tmp_path, log, since=20) == tmp_path / "checkpoint-30"
    assert best_checkpoint(tmp_path, log, since=30) is None


def test_the_oldest_checkpoints_go_where_the_disk_has_no_room_for_another(tmp_path, monkeypatch):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    size = sum(f.stat().st_size for f in (tmp_path / "checkpoint-10").iterdir())
    room = [5.0]  # of the disk, in checkpoints

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=size * (room[0] - len(list(folder.glob("checkpoint-*")))))

    monkeypatch.setattr(checkpoints.shutil, "disk_usage", usage)
    assert make_room(tmp_path) == []
    room[0] = 3.5
    assert [c.name for c in make_room(tmp_path)] == ["checkpoint-2"]
    room[0] = 0.0
    assert [c.name for c in make_room(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert make_room(tmp_path) == []
