import os
import threading
import time

import pytest
from pydantic import ValidationError

from tasks.job.spec import JobExit
from tasks.supervise.records import ExitRecord, Heartbeat, read_json, write_json


def test_a_reader_never_sees_a_part_of_a_record(tmp_path):
    path, done = tmp_path / "record.json", threading.Event()
    write_json(path, {"rows": [0] * 5_000})
    assert read_json(tmp_path / "none.json") is None

    def write() -> None:
        while not done.is_set():
            write_json(path, {"rows": [0] * 5_000})

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = {len(read_json(path)["rows"]) for _ in range(300)}
    done.set()
    for writer in writers:
        writer.join()
    assert seen == {5_000}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_an_exit_record_is_read_back_and_a_missing_one_is_a_death(tmp_path):
    assert ExitRecord.read(tmp_path / "exit.json") is None
    JobExit(status="failed", reason="no room", node="dev1").write(tmp_path / "exit.json")
    assert JobExit.read(tmp_path / "exit.json") == JobExit(status="failed", reason="no room", node="dev1")
    with pytest.raises(ValidationError):
        ExitRecord.read(tmp_path / "exit.json")  # a job's record says more


def test_silence_is_counted_from_the_last_change_whatever_the_clock_says(tmp_path):
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    time.sleep(0.2)
    assert heartbeat.silence() >= 0.2
    heartbeat.beat()
    assert heartbeat.silence() < 0.2
    os.utime(tmp_path / "heartbeat", (1.0, 1.0))  # a file server whose clock is wrong
    assert heartbeat.silence() < 0.2
