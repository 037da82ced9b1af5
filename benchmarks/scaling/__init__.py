"""Runs of many blocks on many GPUs: simulated from what is measured on a few workers."""
