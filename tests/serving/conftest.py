"""A home of its own for each test, as for the flows."""

from tests.flows.conftest import home, store  # noqa: F401
