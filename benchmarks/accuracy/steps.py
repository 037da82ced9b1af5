"""What the jobs of the benchmark do: ranges, patches, trainings, maps, scores."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import cryoscale
from benchmarks.accuracy.jobs import outcome
from benchmarks.accuracy.scales import LEARNERS, Place, Scale
from cryoscale.features.stack import PcaBasis
from cryoscale.forecast.rates import cores
from cryoscale.learn.augment import DROPPABLE
from cryoscale.learn.evaluate import evaluate
from cryoscale.learn.patches import SPLITS, Patches
from cryoscale.learn.recipe import SimulationConfig, TrainConfig
from cryoscale.learn.samples import COLLECTIONS, YEAR, from_simulation
from cryoscale.learn.train import train
from cryoscale.simulate.catalog import publish
from cryoscale.simulate.regime import regime_named
from cryoscale.simulate.terrain import make_range

RANDOM_FRACTION = 0.2
"""Share of the patches that the random split holds back, as in the study."""

NO_OUTLINE_KM2 = 1e6
"""Of the maps labels and probabilities are judged: outlines would take as long to draw as a map to make."""


@dataclass(frozen=True)
class Bench:
    """A scale and the folder that its results lie in."""

    scale: Scale
    out: Path

    def patches(self, kind: str) -> Path:
        """Where a patch set lies: "blocked", "random", "transfer", or "without-…"."""
        return self.out / "patches" / f"{kind}.zarr"

    def weights(self, name: str) -> Path:
        """Where a training's weights lie."""
        return self.out / "weights" / f"{name}.safetensors"

    def processes(self, config: SimulationConfig) -> int:
        """How many make the patches of ``config``: no more than ranges, or than keep the cores busy."""
        ranges = len((*config.train_seeds, *config.validation_seeds, *config.test_seeds))
        return max(1, min(self.scale.wide, ranges, 3 * cores() // 2))

    # --- data ---------------------------------------------------------------------------------------

    def make_patches(self) -> dict[str, Any]:
        """The patch set that all models learn from."""
        scale = self.scale
        config = self._simulation(scale.train, scale.validation, scale.test)
        return _counts(from_simulation(config, self._new("blocked"), processes=self.processes(config)))

    def make_transfer(self) -> dict[str, Any]:
        """The patch set of the transfer regime, in the principal components of the other one."""
        scale = self.scale
        config = self._simulation(scale.tune, scale.tune_validation, scale.transfer)
        basis = PcaBasis.from_dict(Patches.open(self.patches("blocked")).attrs["pca"])
        made = from_simulation(config, self._new("transfer"), basis=basis, processes=self.processes(config))
        return _counts(made)

    def make_random(self) -> dict[str, Any]:
        """The same patches, those of training and validation ranges thrown together and split at random."""
        group = self._twin("random")
        column = group["split"][:]
        held = np.flatnonzero(np.isin(column, [SPLITS.index("train"), SPLITS.index("validation")]))
        drawn = np.random.default_rng(0).permutation(held)
        column[held] = SPLITS.index("train")
        column[drawn[: round(len(held) * RANDOM_FRACTION)]] = SPLITS.index("validation")
        group["split"][:] = column
        group.attrs["split"] = f"random {RANDOM_FRACTION:.0%} of the patches held back; neighbours leak"
        group.attrs["complete"] = True
        return _counts(Patches.open(self.patches("random")))

    def make_without(self, modalities: Sequence[str]) -> dict[str, Any]:
        """The same patches without the channels of some modalities."""
        kind = without(modalities)
        group = self._twin(kind, copied=("x",))
        names = [name for modality in modalities for name in DROPPABLE[modality]]
        absent = [list(group.attrs["channels"]).index(name) for name in names]
        at_once = (group["x"].shards or group["x"].chunks)[0]
        for start in range(0, group["x"].shape[0], at_once):
            stacks = group["x"][start : start + at_once]
            stacks[:, absent] = np.nan
            group["x"][start : start + at_once] = stacks
        group.attrs.pop("content_sha256", None)  # that of the stacks with all channels
        group.attrs.update({"without": names, "complete": True})
        return {**_counts(Patches.open(self.patches(kind))), "without": names}

    def _simulation(
        self, training: Sequence[Place], validation: Sequence[Place], test: Sequence[Place]
    ) -> SimulationConfig:
        scale, splits = self.scale, {"train": training, "validation": validation, "test": test}
        return SimulationConfig(
            **{f"{split}_seeds": [place.seed for place in found] for split, found in splits.items()},
            regimes={split: [place.regime for place in found] for split, found in splits.items()},
            size=scale.size,
            composites=scale.composites,
            patch_px=scale.patch_px,
            stride_px=scale.stride_px,
        )

    def _new(self, kind: str) -> Path:
        path = self.patches(kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _twin(self, kind: str, copied: Sequence[str] = ()) -> zarr.Group:
        """A set that is marked incomplete and shares the stacks and labels of the first, but for "
        "``copied``."""
        source, target = self.patches("blocked"), self._new(kind)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for part in source.iterdir():
            if part.name in ("x", "y") and part.name not in copied:
                (target / part.name).symlink_to(part.resolve(), target_is_directory=True)
            elif part.is_dir():
                shutil.copytree(part, target / part.name)
            else:
                shutil.copy(part, target / part.name)
        group = zarr.open_group(target, mode="r+")
        group.attrs["complete"] = False
        return group

    def make_range(self, place: Place) -> dict[str, Any]:
        """A range with its scenes and truth, as a run finds them."""
        folder = self.out / "ranges" / place.name
        shutil.rmtree(folder, ignore_errors=True)
        regime = regime_named(place.regime)
        made = publish(make_range(place.seed, self.scale.size, regime=regime), folder, years=[YEAR])
        return {
            "bbox": [round(v, 6) for v in made.bbox_deg],
            "truth": {str(epsg): str(made.truth(epsg).relative_to(self.out)) for epsg in made.epsgs},
            "velocity": str(made.velocity.relative_to(self.out)),
        }

    # --- models -------------------------------------------------------------------------------------

    def train(self, name: str, model: str, kind: str, number: int = 1) -> dict[str, Any]:
        """Trains ``model`` on a patch set by the recipe that all share, but for its seed."""
        config = TrainConfig(
            name=f"benchmark {self.scale.name}: {name}",
            description="Trained on simulated mountain ranges only, for a comparison; not fit for real ones.",
            patches=self.patches(kind),
            model={"name": model, "arguments": self.scale.arguments.get(model, {})},
            **{**self.scale.recipe, "seed": self._seed(number)},
        )
        return self._fit(name, config)

    def tune(self, name: str, number: int = 1) -> dict[str, Any]:
        """Fine-tunes trained weights on the transfer regime, for a few iterations."""
        config = TrainConfig(
            name=f"benchmark {self.scale.name}: {name}, fine-tuned",
            patches=self.patches("transfer"),
            initial=self.weights(name),
            augment=self.scale.recipe["augment"],
            seed=self._seed(number),
            **self.scale.tuning,
        )
        return self._fit(f"{name}-tuned", config)

    def _seed(self, number: int) -> int:
        return int(self.scale.recipe["seed"]) + number - 1

    def _fit(self, name: str, config: TrainConfig) -> dict[str, Any]:
        out = self.weights(name)
        out.parent.mkdir(parents=True, exist_ok=True)
        card = train(config, out=out, work=self.out / "training" / name)
        return {
            "parameters": card.training["parameters"],
            "sha256": card.sha256,
            "temperature": card.temperature,
            "best_epoch": card.training.get("best_epoch"),
            "validation_mean_iou": card.training.get("validation_mean_iou"),
            "held_back": card.metrics["validation"],
        }

    def importance(self, name: str) -> dict[str, Any]:
        """Permutation importance on the test patches, with its chart."""
        from cryoscale.learn.importance import Permuting, importance
        from cryoscale.learn.importance_report import save

        repeats, limit = self.scale.importance
        found = importance(
            self.weights(name),
            self.patches("blocked"),
            limit=limit,
            how=Permuting(repeats=repeats),
            precision="bf16" if _gpus() else "fp32",
        )
        save(found, self.out / "importance" / ("" if name in LEARNERS else name))
        return found.to_dict()

    # --- maps ---------------------------------------------------------------------------------------

    def map(
        self, place: Place, model: Mapping[str, Any], name: str, left_out: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Maps a range by a run as a user starts it, and scores its blended mosaic against the truth."""
        found = outcome(self.out, range_job(place))
        home, out = self.out / "ranges" / place.name, self.out / "runs" / f"{place.name}-{name}"
        shutil.rmtree(out, ignore_errors=True)
        sources: dict[str, Any] = {m: {"collection": collection} for m, collection in COLLECTIONS.items()}
        sources["velocity"] = {"href": str(self.out / found["velocity"])}
        cryoscale.run(
            {
                "name": f"{place.name} {name}",
                "region": {"bbox": found["bbox"]},
                "years": [YEAR],
                "season": {"start": "01-01", "end": "12-31"},
                "catalogs": [{"url": str(home)}],
                "sources": {key: value for key, value in sources.items() if key not in left_out},
                "model": {**model, **self._of_networks()} if "weights" in model else dict(model),
                "tiling": {"tile_px": self.scale.patch_px, "block_px": self.scale.block_px},
                "outlines": {"files": [], "min_area_km2": NO_OUTLINE_KM2},
                "cluster": {"kind": "local", "cpu_workers": 1, "gpu_workers": _gpus()},
            },
            out,
        )
        truth = {int(epsg): self.out / path for epsg, path in found["truth"].items()}
        judged = evaluate(out, truth)
        return {"scores": judged.scores.to_dict(), "ece": judged.reliability.to_dict()["ece"]}

    def _of_networks(self) -> dict[str, Any]:
        return {"precision": _precision(), "overlap": self.scale.overlap}


def without(modalities: Sequence[str]) -> str:
    """What a patch set or a training without some modalities is called."""
    return "without-" + "-".join(modalities)


def range_job(place: Place) -> str:
    """The job that makes a range."""
    return f"range-{place.name}"


def _gpus() -> int:
    import torch

    return min(torch.cuda.device_count(), 1)


def _precision() -> str:
    """That of maps: named on a GPU, where a run that chooses for itself tries its ways out for minutes."""
    return "bf16" if _gpus() else "auto"


def _counts(patches: Patches) -> dict[str, Any]:
    splits = ("train", "validation", "test")
    return {
        "patches": {split: len(patches.indices(split)) for split in splits},
        "pixels": {split: patches.class_counts(patches.indices(split), 5).tolist() for split in splits},
    }
