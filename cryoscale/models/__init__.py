"""The networks, their weights files, and the classical method behind the same call."""
