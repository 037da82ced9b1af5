"""Measurements that can be repeated: ratios against something measured in the same run."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Where the lines of committed measurements lie."""
