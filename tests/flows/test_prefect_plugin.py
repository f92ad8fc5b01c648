"""How the server's transactions behave on a real SQLite file."""

import asyncio

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration

from flows.prefect_plugin import lock_early


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


def test_prefect_as_it_comes_fails_them(tmp_path):
    """Once this test fails, `lock_early` has done its work and can go."""
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        asyncio.run(polls_counted(tmp_path / "prefect.db", workers=4))
