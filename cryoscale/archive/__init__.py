"""Years and regions of finished runs in one store: added, listed, compared, proven and taken out.

Under the archive's root, a local folder or an fsspec URL:

* ``catalog.json``, the one file that is ever replaced: root of a static STAC catalogue and, under
  ``cryoscale:archive``, the list of what there is (:mod:`cryoscale.archive.index`);
* ``stac/<generation>/<region>/…``, collections and items, all written anew beside the old at each change;
* ``glaciers``, ``complexes``, ``intersects`` and ``centrelines``, GeoParquet at
  ``region=…/year=…/version=…/`` as Hive lays tables out;
* ``mosaics/region=…/year=…/version=…/mosaic.zarr/<year>/<epsg>``, the maps as Zarr;
* ``records/region=…/year=…/version=…/``, the run's own account, its frozen scenes, and ``files.parquet``,
  the size and sha256 of every file of that year;
* ``ledger/lease``, who adds at the moment, and ``ledger/published.json``, which catalogue was the last.

**Order of an addition**: data, then the list of their checksums, then the STAC documents, then
``catalog.json`` in one step. Only the last is ever looked at first, so that a reader has the year before or
after and never half of it. Files that a catalogue names are never written again and never removed, but for
STAC documents older than the last generation but one. What a killed addition leaves is named by nobody; the
next one sweeps it. To a catalogue that is lost, or is that of an older copy, whole years would be such
rubbish: with it nothing is added or swept. One adds at a time (:mod:`cryoscale.lease`).

**Plain files and not Icechunk** (https://icechunk.io): both were tried on kill -9 in the middle of adding
and on readers beside an adder (``python -m benchmarks.archiving``), and neither ever showed half a year.
Icechunk's commit would cover the maps alone, so that tables and catalogue needed a pointer of their own all
the same; what it stores only its own library reads, and zarr without it finds nothing; and on a local disk it
warns of two commits at once, where :mod:`cryoscale.lease` lets one adder in.
"""
