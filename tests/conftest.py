"""What all tests share: where the real samples lie, and a quiet, repeatable hypothesis."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import cryoscale.collecting  # noqa: F401 - as every command begins; before all that is heavy is imported

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: their libraries' own threads would only spin beside each other, which
    # doubled the processor time of whatever trains. Set for the processes that tests start, too, and once
    # more for numpy, which pytest's plugins have loaded by now: other threads give other last bits.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1)

import pytest
from hypothesis import HealthCheck, settings

from cryoscale.read.hosts import HOSTS
from tests.tables import Table

settings.register_profile(
    "cryoscale",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("cryoscale")

SHARED = Path(os.environ.get("CRYOSCALE_SHARED", Path(__file__).parents[2] / "shared"))


READING = Table("fault matrix", "fault", "times", "what happened", "pixels lost")
RUNS = Table("faults of runs", "fault", "times caused", "blocks repeated", "bytes that differ")


def pytest_configure(config: pytest.Config) -> None:
    """The tables are there before any test, and in the process that only reports."""
    for table in (READING, RUNS):
        if not config.pluginmanager.is_registered(table):
            config.pluginmanager.register(table, table.title)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whole benchmarks, at their smallest, are a tenth of all tests' time: a tier of their own."""
    if "benchmarks" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("benchmarks"):
            item.add_marker(pytest.mark.skip(reason="asked for by: python -m pytest -m benchmarks"))


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no later look for garbage goes through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def matrix() -> Table:
    """Faults of reading: what was caused, how often, what came of it and what was lost."""
    return READING


@pytest.fixture(scope="session")
def faults() -> Table:
    """Faults of runs: what was caused, how often, how many blocks were done again, and what differs."""
    return RUNS


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
