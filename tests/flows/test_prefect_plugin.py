"""The environment that Prefect's processes get, and the server's transactions on a real SQLite file."""

import asyncio
import time

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.utilities.asyncutils import run_coro_as_sync

from flows import prefect_plugin, server_auth
from flows.prefect_plugin import lock_early

OURS = "http://127.0.0.1:4300/api"


def test_a_server_that_starts_here_asks_for_a_string_and_clients_here_give_it(home):
    server = prefect_plugin.environment(OURS, starts_server=True)
    string = server["PREFECT_SERVER_API_AUTH_STRING"]
    assert server["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4300"
    assert server["PREFECT_API_AUTH_STRING"] == string
    assert server["DO_NOT_TRACK"] == "1"
    assert server_auth.secret_file().stat().st_mode & 0o777 == 0o600
    again = prefect_plugin.environment(OURS, starts_server=True)
    assert again["PREFECT_SERVER_API_AUTH_STRING"] == string
    client = prefect_plugin.environment(OURS, starts_server=False)
    assert client["PREFECT_API_AUTH_STRING"] == string
    assert not {name for name in client if name.startswith("PREFECT_SERVER_API")}


def test_a_server_of_others_is_not_told_our_string(home):
    prefect_plugin.environment(OURS, starts_server=True)
    theirs = prefect_plugin.environment("http://prefect.example/api", starts_server=False)
    assert theirs == {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def test_a_string_that_the_user_set_for_a_server_is_kept(home, monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:mine")
    server = prefect_plugin.environment(OURS, starts_server=True)
    assert "PREFECT_SERVER_API_AUTH_STRING" not in server
    assert not server_auth.secret_file().exists()


async def polls_counted(path, workers: int) -> int:
    """Workers that all read the count before any of them adds to it."""
    config = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
    engine = await config.engine()

    async def execute(*statements: str, wait: float = 0.0) -> list:
        async with await config.session(engine) as session, config.begin_transaction(session):
            for statement in statements:
                result = await session.execute(sa.text(statement))
                await asyncio.sleep(wait)
            return list(result) if result.returns_rows else []

    await execute("CREATE TABLE polls (n INT)", "INSERT INTO polls VALUES (0)")
    add = ("SELECT n FROM polls", "UPDATE polls SET n = n + 1")
    await asyncio.gather(*(execute(*add, wait=0.05) for _ in range(workers)))
    ((count,),) = await execute("SELECT n FROM polls")
    await engine.dispose()
    return count


def test_transactions_that_read_and_then_write_wait_in_turn(tmp_path, monkeypatch):
    original = AioSqliteConfiguration.begin_transaction
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", original)  # put back afterwards
    lock_early()
    lock_early()
    assert asyncio.run(polls_counted(tmp_path / "prefect.db", workers=4)) == 4


async def reads_at_commit(path) -> list:
    """What a commit reads in another thread, as Prefect does when an automation was made, while a second
    writer waits for the lock that the commit frees."""
    config = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
    engine = await config.engine()
    read = []

    async def count() -> None:
        async with await config.session(await config.engine()) as session:
            read.append((await session.execute(sa.text("SELECT count(*) FROM made"))).scalar())

    async def write(wait: float, commit) -> None:
        async with await config.session(engine) as session, config.begin_transaction(session):
            await session.execute(sa.text("INSERT INTO made VALUES (1)"))
            if commit:
                sa.event.listen(session.sync_session, "after_commit", commit, once=True)
            await asyncio.sleep(wait)

    async with await config.session(engine) as session, config.begin_transaction(session):
        await session.execute(sa.text("CREATE TABLE made (n INT)"))

    def after_commit(_) -> None:
        time.sleep(0.5)  # by now the other writer has the lock
        run_coro_as_sync(count())

    await asyncio.gather(write(0.3, after_commit), write(0.0, None))
    await engine.dispose()
    return read


def test_what_a_commit_reads_waits_for_no_writer(tmp_path, monkeypatch):
    original = AioSqliteConfiguration.begin_transaction
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", original)
    lock_early()
    began = time.monotonic()
    assert asyncio.run(reads_at_commit(tmp_path / "prefect.db")) == [1]
    assert time.monotonic() - began < 20  # SQLite gives up after 60 s


def test_prefect_as_it_comes_fails_them(tmp_path):
    """Once this test fails, `lock_early` has done its work and can go."""
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        asyncio.run(polls_counted(tmp_path / "prefect.db", workers=4))
