"""For all unit tests."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings

from unit.examples import examples
from unit.nottried import pytest_terminal_summary  # noqa: F401 - pytest finds it by its name

settings.register_profile("dynvol", examples(100))
settings.load_profile("dynvol")


def pytest_configure(config: pytest.Config) -> None:
    """Say that no event loop is set: looptime asks the policy before each test, even one that is not asynchronous, and the
    policy would make a loop that no one closes."""
    asyncio.set_event_loop(None)
