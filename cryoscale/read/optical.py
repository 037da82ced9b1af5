"""The optical image of a window: scenes ranked by what they show around each pixel, and folded into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cryoscale.errors import CryoscaleError
from cryoscale.read.assets import S2_BANDS, asset_of
from cryoscale.read.band import asset_spec, cloud_pct, footprint_deg, in_order, read_asset, when
from cryoscale.read.choice import CHOICE_BANDS, REACH_PX, Choice, choose, sample_codes
from cryoscale.read.composite import Composer, clear_mask, scene_order
from cryoscale.read.metered import Cost
from cryoscale.read.raster import UnreadableError
from cryoscale.read.session import Planes, Session, bounds_deg, cause_of, touches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from pystac import Item


def read_optical(
    session: Session, items: Sequence[Item], method: str, rank_locally: bool, max_cloud_pct: float | None
) -> Planes:
    """The composite; scenes are read one after the other, the classification first.

    A scene with more cloud as a whole than ``max_cloud_pct`` shows only the pixels around which, over the
    ice, no more than that is hidden.
    """
    ranked = _ranked(items)
    cloudy = {item.id for item in items if max_cloud_pct is not None and cloud_pct(item) > max_cloud_pct}
    choice, lost = None, dict[str, CryoscaleError]()
    if rank_locally and (method != "median" or cloudy):
        ranked = in_order(items)
        choice, lost = _choice(session, ranked, cloudy)
    elif cloudy:
        ranked = [item for item in ranked if item.id not in cloudy]
    session.choice = None if method == "median" else choice
    composer = Composer(method, session.window.shape)

    def use(item: Item) -> bool:
        if item.id in lost:
            raise lost[item.id]  # it has no rank, so it shall not come in by better luck now
        lacking = [name for name in S2_BANDS if asset_of(item, name) is None]
        if lacking:
            raise UnreadableError(f"no asset for {', '.join(lacking)}")
        usable = np.ones(session.window.shape, bool)
        if choice is not None and max_cloud_pct is not None and item.id in cloudy:
            usable = choice.cloud(item.id, session.window) <= max_cloud_pct / 100.0
            if not usable.any():
                return False  # as cloudy here as it is elsewhere
        clear = usable
        if asset_of(item, "SCL") is not None:
            seen = session.bands(item, ["SCL"]).get("SCL")
            if seen is None:
                return False  # the window lies beside what was classified
            clear = usable & clear_mask(seen)
        if not clear.any():
            return True  # all hidden: its bands cannot matter
        planes = session.bands(item, S2_BANDS)
        if len(planes) < len(S2_BANDS):
            return False  # the window lies within reach of its coarse bands only
        bands = np.stack([planes[name] for name in S2_BANDS])
        day = int(np.datetime64(when(item).date(), "D").astype(np.int64))
        rank = None if session.choice is None else session.choice.score(item.id, session.window)
        composer.add(bands, clear, day, rank)
        return True

    if not session.each("optical", ranked, use):
        return {}
    merged, date, n_clear = composer.result()
    share, dates = composer.persistence()
    return {
        **dict(zip(S2_BANDS, merged, strict=True)),
        "source_date": date,
        "n_clear": n_clear,
        "persistence": share,
        "clear_dates": dates,
    }


def _choice(
    session: Session, items: Sequence[Item], cloudy: set[str]
) -> tuple[Choice, dict[str, CryoscaleError]]:
    """What each scene shows on the cells around the window, and why some could not be looked at.

    Those show nothing. They are told when their turn comes in the composite, or here where they lie beside
    the window, whose scores they could have moved all the same.
    """
    # Scenes beside the window count too: what is glacierised must not depend on where the window ends.
    around = bounds_deg(session.window.pad(REACH_PX))
    by_id = {item.id: item for item in items if touches(footprint_deg(item), around)}
    lost: dict[str, CryoscaleError] = {}

    def look(scene: str, grid: GeoBox) -> NDArray[np.uint8] | None:
        try:
            return _codes(session, by_id[scene], grid, likely_hidden=scene in cloudy)
        except session.left_out as error:
            lost[scene] = error
            return None

    found = choose(list(by_id), session.window, look)
    beside = lost.keys() - {item.id for item in session.near(items)}
    session.failed += [(scene, cause_of(scene, lost[scene])) for scene in by_id if scene in beside]
    return found, lost


def _codes(session: Session, item: Item, grid: GeoBox, *, likely_hidden: bool) -> NDArray[np.uint8] | None:
    """What ``item`` shows on a grid; None where it lacks a band, or all of it is hidden."""

    def read(names: Sequence[str]) -> dict[str, NDArray[np.float32] | None]:
        specs = [asset_spec(item, name, session.sign) for name in names]
        found = list(session.pool.map(lambda s: (None, Cost()) if s is None else read_asset(s, grid), specs))
        session.cost = sum((cost for _, cost in found), session.cost)
        return dict(zip(names, (values for values, _ in found), strict=True))

    # One band tells that a scene is hopeless; where that is not to be expected, they are read side by side.
    planes = read(CHOICE_BANDS[:1]) if likely_hidden else read(CHOICE_BANDS)
    seen, clear = planes.pop("SCL"), np.ones(grid.shape, bool)
    if asset_of(item, "SCL") is not None:
        clear = np.zeros(grid.shape, bool) if seen is None else clear_mask(seen)
    if likely_hidden:
        if not clear.any():
            return None
        planes = read(CHOICE_BANDS[1:])
    shown = {name: values for name, values in planes.items() if values is not None}
    if len(shown) < len(planes):
        return None
    return sample_codes(shown, clear)


def _ranked(items: Sequence[Item]) -> list[Item]:
    order = scene_order(
        [cloud_pct(item) for item in items], [when(item) for item in items], [item.id for item in items]
    )
    return [items[index] for index in order]
