"""Benchmarks of cryoscale; each says how it is run and what it measured."""
