"""Tests on real guests: `make test-host`. Elsewhere they are skipped; see tests/host/conftest.py.

The VM and the container are booted once for all tests, which leave nothing behind in them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.guests import needs
from tests.guests.container import real_container
from tests.guests.vm import real_vm
from tests.host.needs import WANTED, wanted

TEST_SECONDS = 90
"""For a test alone: everything that fixtures do has deadlines of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the first test that uses a guest not pay for its boot."""
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session", autouse=True)
def _allowed() -> None:
    if not wanted():
        pytest.skip(f"boots guests: only with {WANTED}=1 (make test-host)")
    if lacking := needs.missing():
        pytest.exit(lacking, returncode=1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vm(_allowed: None) -> AsyncIterator[str]:
    """The socket of the guest agent of a VM."""
    async with real_vm() as agent:
        yield agent


@pytest.fixture(scope="session")
def container(_allowed: None) -> Iterator[tuple[str, ...]]:
    """What comes before a command that runs in a container."""
    with real_container() as enter:
        yield enter
