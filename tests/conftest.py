"""What all tests share: where the real samples lie, and a quiet, repeatable hypothesis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cryoscale.read.hosts import HOSTS

settings.register_profile(
    "cryoscale",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("cryoscale")

SHARED = Path(os.environ.get("CRYOSCALE_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(autouse=True)
def no_host_is_remembered() -> None:
    """Ports come back, and a server of one test shall not be down for the next."""
    HOSTS.forget()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real samples; a test that needs it is skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real samples are not there ({folder})")
    return folder
