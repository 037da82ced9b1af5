"""What the process that workers are forked from imports (:mod:`cryoscale.template`), and nobody else.

Numerical libraries count their threads when they are imported: one each, as many processes share the cores.
"""

# ruff: noqa: F401 - the environment first; these modules are wanted for having been imported

import os

from cryoscale.cluster import SINGLE_THREADED

os.environ.update(SINGLE_THREADED)

import distributed.nanny
import distributed.worker

import cryoscale.drive
import cryoscale.models.loading
import cryoscale.models.predictor
