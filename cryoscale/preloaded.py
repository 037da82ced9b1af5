"""What the process that workers are forked from imports (:mod:`cryoscale.template`), and nobody else.

The environment comes first, as numerical libraries count their threads when they are imported; what is
imported before it must not bring any of them.
"""

# ruff: noqa: F401 - the environment first; these modules are wanted for having been imported

import os

from cryoscale.template import SINGLE_THREADED

os.environ.update(SINGLE_THREADED)

import distributed.nanny
import distributed.worker

import cryoscale.drive
import cryoscale.models.cryonet
import cryoscale.models.loading
import cryoscale.models.predictor
