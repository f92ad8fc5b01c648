"""One pool for all tests of a module run: its processes start once."""

import pytest

from tasks.rewards.pool import VerifierPool


@pytest.fixture(scope="session")
def pool():
    with VerifierPool(workers=2) as opened:
        yield opened
