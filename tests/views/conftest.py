"""Real recordings for the tests of the views."""

from __future__ import annotations

import pytest

import vmlab

MEMORY = 2 << 20


@pytest.fixture(scope="session")
def native():
    return vmlab.record(vmlab.guests.load("minios"), under="native", memory=MEMORY)


@pytest.fixture(scope="session")
def trapped():
    return vmlab.record(vmlab.guests.load("minios"), under="trap-and-emulate", memory=MEMORY)


@pytest.fixture(scope="session")
def pair():
    """Two guests on one host."""
    image = vmlab.guests.load("minios")
    return vmlab.record([image, image], under="trap-and-emulate", memory=MEMORY)
