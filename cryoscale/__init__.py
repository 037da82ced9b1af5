"""cryoscale: from a STAC query to a seamless map of glacier classes and an outline inventory.

Example:
    >>> import cryoscale
    >>> run = cryoscale.run("khumbu.yaml", out="khumbu")  # doctest: +SKIP
    >>> run.mosaic(2018, 32645).label.plot()  # doctest: +SKIP
    >>> cryoscale.open("khumbu").outlines(2018)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryoscale.api import changes, open, run
    from cryoscale.results import Run

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "changes", "open", "run"]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `import cryoscale` and the command line stay quick.
    if name in ("changes", "open", "run"):
        from cryoscale import api

        return getattr(api, name)
    if name == "Run":
        from cryoscale.results import Run

        return Run
    raise AttributeError(f"module 'cryoscale' has no attribute {name!r}")
