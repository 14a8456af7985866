"""Tests on real Debian machines: `make test-host`. Elsewhere they are skipped.

PVEMCP_TEST_HOST=1      boot machines
PVEMCP_HOST_SUITES      on these only: bookworm, trixie
PVEMCP_HOST_EVERYTHING=1  on both also what one is enough for
PVEMCP_HOST_CACHE       folder of what is slow to make, instead of /var/cache/pvemcp-hosts
PVEMCP_HOST_MIRROR      Debian mirror, instead of the first in this computer's apt sources
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import needs
from tests.host.claims import sweep
from tests.host.images import Suite
from tests.host.install import install
from tests.host.machine import Machine
from tests.host.served import Served, serve

TEST_SECONDS = 60
"""For a test alone: everything that fixtures do has deadlines of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the first test that uses a machine not pay for its making."""
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session", autouse=True)
def _allowed() -> None:
    if not needs.wanted():
        pytest.skip(f"boots machines: only with {needs.WANTED}=1 (make test-host)")
    if lacking := needs.missing():
        pytest.exit(lacking, returncode=1)
    sweep()


@pytest.fixture(scope="session", params=needs.suites())
def suite(request: pytest.FixtureRequest) -> Suite:
    """Each Debian that Proxmox VE stands on."""
    chosen: Suite = request.param
    return chosen


@pytest.fixture(scope="session")
def machine(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that all tests share: they leave it as they found it, and running."""
    with Machine.create(suite, tmp_path_factory.mktemp(suite)) as made:
        made.boot()
        yield made


@pytest.fixture(scope="session")
def host(machine: Machine) -> Served:
    """The installed service in the machine that all tests share."""
    install(machine)
    return serve(machine)


@pytest.fixture(scope="session")
def limited_host(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The installed service in a machine that enforces limits, on cgroup v1: see Machine.boot."""
    with Machine.create(suite, tmp_path_factory.mktemp(f"{suite}-limits")) as made:
        made.boot(limits=True)
        install(made)
        yield serve(made)


@pytest.fixture
def other(suite: Suite, tmp_path: Path) -> Iterator[Machine]:
    """A machine of the test's own, which is not booted yet."""
    with Machine.create(suite, tmp_path / "machine") as made:
        yield made
