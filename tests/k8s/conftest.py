"""One Kubernetes cluster for all tests of this folder, which run only where their marker asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import calm, s3, s3_process, tiny_range
from tests.k8s.lab import Lab, cryoscale_images, running, why_not

__all__ = ["calm", "s3", "s3_process", "tiny_range"]

HOW = "asked for by: python -m tests.k8s.build && python -m pytest -n 0 -m kubernetes"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """They take minutes, so that a run of everything leaves them out, and says how they are had."""
    reason = HOW if "kubernetes" not in config.option.markexpr else why_not()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster of four nodes with the Dask operator, up for the session."""
    with running(tmp_path_factory.mktemp("cluster"), cryoscale_images()) as found:
        yield found
