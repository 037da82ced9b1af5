"""A tiny simulated range over the boundary of two UTM zones, and a small network to map it with."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoscale.config import load_config
from cryoscale.features.stack import CHANNELS
from cryoscale.grid import Block
from cryoscale.infer.actor import ModelActor
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.ledger import Marker
from cryoscale.preparation import prepare
from cryoscale.settings import Settings
from cryoscale.task import process_block
from tests.integration.s3 import s3, s3_process

__all__ = ["s3", "s3_process"]


@dataclass(frozen=True)
class TinyRange:
    """Where it lies and how to configure a run over it."""

    folder: Path
    bbox: tuple[float, float, float, float]
    weights: Path

    def config(self, **changes: Any) -> dict[str, Any]:
        """A configuration as a person would write it; ``changes`` replace top-level keys."""
        document: dict[str, Any] = {
            "name": "tiny",
            "region": {"bbox": [round(v, 5) for v in self.bbox]},
            "years": [2018],
            "season": {"start": "10-01", "end": "10-31"},
            "catalogs": [{"url": str(self.folder)}],
            "sources": {
                "optical": {"collection": "sentinel-2-l2a"},
                "terrain": {"collection": "cop-dem-glo-30"},
                "thermal": {"collection": "landsat-c2-l2"},
                "velocity": {"href": str(self.folder / "ITS_LIVE_velocity_120m.zarr")},
                "insar": {"collection": "sentinel-1-slc-pair"},
            },
            "model": {"weights": str(self.weights), "overlap": 0.5},
            "tiling": {"tile_px": 64, "block_px": 256},
            # a second a run, which only the tests of these files have to spend
            "outlines": {"files": []},
            "cluster": {"kind": "local", "cpu_workers": 1, "gpu_workers": 0},
        }
        return document | changes

    def settings(self, **changes: Any) -> Settings:
        """The settings of :meth:`config`."""
        return load_config(self.config(**changes))


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file and folder; one that was moved away and back shows in its folder."""
    return {
        str(path.relative_to(folder)): (0 if path.is_dir() else path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """A folder made by the first of the session's processes that asks for it, and read by all.

    What one process changes in it, if only for a moment, the tests of another meet as a fault that none of
    them caused: whoever wants a change takes a copy. A change is told at the end of the session.
    """
    base = factory.getbasetemp()
    home = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = home / name, home / f"{name}.json"
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.write_text(json.dumps(state_of(folder)))
    yield folder
    found = {path: list(state) for path, state in state_of(folder).items()}
    expected = json.loads(made.read_text())
    changed = [path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)]
    assert not changed, f"a test has changed what all tests read in {folder}: {sorted(changed)[:10]}"


@pytest.fixture(scope="session")
def tiny_range(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyRange]:
    """Published once a session."""
    from cryoscale.simulate.catalog import publish
    from cryoscale.simulate.terrain import make_range

    def make(folder: Path) -> None:
        published = publish(make_range(5, "tiny"), folder / "simulated")
        (folder / "bbox.json").write_text(json.dumps(published.bbox_deg))
        save_random_network(folder / "random.safetensors")

    with made_once(tmp_path_factory, "range", make) as folder:
        west, south, east, north = json.loads((folder / "bbox.json").read_text())
        yield TinyRange(folder / "simulated", (west, south, east, north), folder / "random.safetensors")


@dataclass(frozen=True)
class Calm:
    """A small run that nothing disturbed: its configuration, where it lies, and how long it took."""

    config: Path
    out: Path
    blocks: int
    took_s: float


@pytest.fixture(scope="session")
def calm(tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    """Made once a session, by the command."""
    from tests.integration.faults import few_blocks, run_to_end, write_config

    def make(folder: Path) -> None:
        config = write_config(folder / "run.yaml", few_blocks(tiny_range))
        begun = time.monotonic()
        told = run_to_end(config, folder / "run")
        facts = {"blocks": told["computed"], "took_s": time.monotonic() - begun}
        (folder / "facts.json").write_text(json.dumps(facts))

    with made_once(tmp_path_factory, "calm", make) as folder:
        facts = json.loads((folder / "facts.json").read_text())
        yield Calm(folder / "run.yaml", folder / "run", **facts)


def save_random_network(
    path: Path, channels: tuple[str, ...] = CHANNELS, *, bring_basis: bool = True
) -> None:
    """A small untrained CryoNet: its map means nothing, and depends on every pixel it sees."""
    import torch

    from cryoscale.models.cryonet import CryoNet
    from cryoscale.models.weights import Card, save

    torch.manual_seed(1)
    arguments = {
        "in_channels": len(channels),
        "classes": 5,
        "encoder": "resnet10w16",
        "decoder_channels": [32, 16, 16, 16, 16],
    }
    network = CryoNet(len(channels), 5, "resnet10w16", (32, 16, 16, 16, 16))
    scale = {"LST": 270.0, "elevation": 5000.0, "aspect": 180.0, "slope": 30.0, "velocity": 20.0}
    card = Card(
        architecture="cryonet",
        arguments=arguments,
        channels=channels,
        mean=tuple(scale.get(name, 0.0) for name in channels),
        std=tuple(scale.get(name, 1.0) / 3 for name in channels),
        pca={"mean": [0.3] * 12, "components": np.eye(3, 12).tolist()} if bring_basis else None,
        classes=CLASS_NAMES,
    )
    save(network, card, path)


def map_here(settings: Settings, out: Path | str, *, backwards: bool = False) -> list[Marker]:
    """Every block of a run, one after the other in this process, without Dask."""
    identity, work = prepare(settings, str(out))
    model = settings.model
    actor = ModelActor(
        model.keywords,
        tile_px=settings.tile_px,
        overlap=model.overlap,
        threads=1,
        confidence=model.confidence,
    )

    def predict(array: Any, window: Any, block: Block) -> Any:
        return actor.predict(array, window.row, window.col, block)

    order = work[::-1] if backwards else work
    return [process_block(str(out), identity, year, block, predict) for year, block in order]
