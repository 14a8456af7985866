"""Live tests run only where a real PVE is named; see `place.py` for the settings."""

from __future__ import annotations

import pytest

from tests.live.place import Place, absent
from tests.scenarios.rig import ERAS


@pytest.fixture
def place() -> Place:
    """The PVE under test."""
    if missing := absent():
        pytest.skip(missing)
    return Place.of_environment()


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """The protocol revision that the client speaks."""
    return str(request.param)
