"""Kernels compile wherever they are started."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import sys
from cryoscale.kernel import kernel
source = "def double(x):\\n    return 2 * x\\n"
scope = {}
exec(compile(source, sys.argv[1], "exec"), scope)
print(kernel(scope["double"])(21))
"""


def test_a_kernel_compiles_where_nothing_can_be_cached(tmp_path):
    # Folders "below" a plain file can be neither made nor written, even by root.
    file = tmp_path / "file"
    file.write_text("")
    nowhere = str(file / "nowhere")
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    env |= {"HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    command = [sys.executable, "-c", SCRIPT, f"{nowhere}/double.py"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "42", done.stderr
