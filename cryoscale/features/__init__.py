"""Physical bands to the 30 channels of the stack; import from the submodules (no torch here)."""
