"""A run whose channels are made beside its model, of numbers that its workers send."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cryoscale.config import load_config
from cryoscale.errors import ConfigError, OutputError
from cryoscale.forecast.rates import load_profile
from cryoscale.pipeline import run as run_pipeline
from tests.integration.conftest import TinyRange, map_here
from tests.integration.faults import bytes_that_differ, few_by_network

LAYERS = ("label", "probability", "confidence", "disagreement", "modalities", "n_clear", "source_date")


def test_such_a_run_is_the_map_of_its_workers_to_half_a_step_and_its_own_to_the_last_bit(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    by_workers, made_there = few_by_network(tiny_range), few_by_network(tiny_range)
    made_there["model"] |= {"derive_on": "device"}
    here, there = tmp_path / "here", tmp_path / "there"
    settings = load_config(made_there)
    assert run_pipeline(settings, str(there)).exit_code == 0
    map_here(load_config(by_workers), here)

    manifest = json.loads((there / "run.json").read_text())
    assert manifest["identity"]["derive_on"] == "device"
    assert "derive_on" not in json.loads((here / "run.json").read_text())["identity"]
    stores = sorted(path.parent for path in (there / "mosaic.zarr").glob("*/*/label"))
    assert stores
    for store in stores:
        place = store.relative_to(there)
        found, wanted = (xr.open_zarr(out / place, consolidated=False) for out in (there, here))
        for name in LAYERS:
            ours, theirs = found[name].values.astype(int), wanted[name].values.astype(int)
            np.testing.assert_array_equal(ours == 255, theirs == 255)
            if name in ("modalities", "n_clear", "source_date"):
                np.testing.assert_array_equal(ours, theirs)
            elif name == "label":  # of drawn weights, which are unsure everywhere
                assert (ours == theirs).mean() > 0.995
            else:
                assert np.abs(ours - theirs).max() <= 3
                assert np.abs(ours - theirs).mean() < 0.05

    # its workers only pack, and its CPUs make channels beside the network: neither is a rate for other runs
    profiles = [load_profile(str(out)) for out in (here, there)]
    assert [profile.features_s_per_mpx is None for profile in profiles] == [False, True]
    assert [len(profile.tiles) for profile in profiles] == [1, 0]

    # a block that is done again is the same, and the whole run in another process, block after block
    marker = next(path for path in (there / "ledger" / "done").rglob("*.json"))
    whole = json.loads(marker.read_text())
    marker.unlink()
    again = run_pipeline(load_config(few_by_network(tiny_range)), str(there))
    assert (again.exit_code, again.computed) == (0, 1)
    assert json.loads(marker.read_text())["checksum"] == whole["checksum"]
    apart = tmp_path / "apart"
    map_here(settings, apart)
    labels = [path for path in (apart / "mosaic.zarr").glob("*/*/label/c/*/*") if path.is_file()]
    assert labels
    for path in labels:
        assert path.read_bytes() == (there / path.relative_to(apart)).read_bytes()
    assert bytes_that_differ(there, here) > 0

    by_workers["model"] |= {"derive_on": "workers"}
    with pytest.raises(OutputError, match=r"derive_on \(device there, none now\)"):
        run_pipeline(load_config(by_workers), str(there))


def test_where_channels_cannot_be_made_is_told(tiny_range: TinyRange) -> None:
    document = few_by_network(tiny_range)
    document["model"] |= {"derive_on": "gpu"}
    with pytest.raises(ConfigError, match="derive_on"):
        load_config(document)
