"""Equal keys give equal bytes on every database: the recipe's first stages on Postgres and on SQLite.

Postgres keeps the parameters of runs as jsonb, which reorders the keys of mappings; SQLite keeps text.

    python -m pytest -m e2e tests/e2e/test_postgres.py     (apt-get install postgresql)
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tasks.presets import CONFIGS
from tests.e2e.machine import Machine

pytestmark = pytest.mark.e2e

SECONDS = 240.0
"""After which a run counts as hanging."""
FIRST = {"problems": "problems.parquet", "r1-zero": "model/model.safetensors"}
"""Node -> the file that is compared."""


def programs() -> Path | None:
    """The folder of Postgres' programs: where Debian has them, or on the path."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    folders += [Path(found).parent for found in [shutil.which("initdb")] if found]
    needed = ("initdb", "pg_ctl", "createdb")
    return next((folder for folder in folders if all((folder / name).exists() for name in needed)), None)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[str]:
    """The address of an empty database on a server of its own."""
    folder = programs()
    if folder is None:
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    root = os.geteuid() == 0
    if root and not shutil.which("runuser"):
        pytest.skip("Postgres does not run as root, and there is no runuser")
    data = Path("/tmp") / f"r1-postgres-{os.getpid()}"  # pytest's folders are closed to other users
    data.mkdir(mode=0o700)
    if root:
        shutil.chown(data, "postgres")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def call(program: str, *words: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if root else []
        command = [*user, str(folder / program), *words]
        subprocess.run(
            command, check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60
        )

    call("initdb", "-D", str(data / "db"), "-U", "postgres", "--auth=trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c fsync=off"
    call("pg_ctl", "-D", str(data / "db"), "-w", "-l", str(data / "log"), "-o", options, "start")
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "prefect")
        yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/prefect"
    finally:
        call("pg_ctl", "-D", str(data / "db"), "-m", "immediate", "stop")
        shutil.rmtree(data)


@pytest.fixture(scope="module")
def preset(tmp_path_factory) -> str:
    """Tiny with a few problems and two updates, its mappings in an order that jsonb (by length) changes."""
    document = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    source = document["problems"]["sources"][0]
    source["train"] = {"math": 40, "logic": 20, "code": 20, "stem": 20, "general": 10}
    source["held_out"] = {"stem": 4, "math": 6, "code": 4, "logic": 4, "general": 4}
    document["r1-zero"] |= {"steps": 2, "questions_per_step": 2, "group_size": 4}
    path = tmp_path_factory.mktemp("preset") / "micro.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(path)


def made(folder: Path, preset: str, **environment: str) -> dict[str, str]:
    """Node -> hash of its file, and the key of the problems; made by `r1 run` on a machine of its own.

    Keys of later nodes hold the digests of their inputs, whose manifests say when they were made.
    """
    folder.mkdir()
    machine = Machine(folder, preset)
    machine.environment |= environment
    try:
        machine.start("run", "--preset", preset, "--until", "r1-zero").wait(SECONDS)
        manifests = {node: machine.store.manifest(machine.refs()[node].digest) for node in FIRST}
        log = (machine.home / "logs" / "server.log").read_text(errors="replace")
    finally:
        machine.start("down").wait(60)
    assert "Traceback" not in log
    hashes = {
        node: next(f.sha256 for f in manifest.files if f.path == FIRST[node])
        for node, manifest in manifests.items()
    }
    return hashes | {"key of the problems": manifests["problems"].key}


def test_the_first_stages_are_the_same_on_postgres_and_on_sqlite(tmp_path, preset, postgres):
    on_postgres = made(tmp_path / "postgres", preset, PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres)
    assert not (tmp_path / "postgres" / "home" / "prefect" / "prefect.db").exists()
    assert made(tmp_path / "sqlite", preset) == on_postgres
    assert (tmp_path / "sqlite" / "home" / "prefect" / "prefect.db").exists()
