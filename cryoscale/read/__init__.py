"""STAC items to physical bands on the world lattice: search, cubes, composites, inputs of a block."""
