"""The type of arrays, and the limits of float32 that Caffe uses as initial values and bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray
FLT_MIN = float(np.finfo(np.float32).tiny)
FLT_MAX = float(np.finfo(np.float32).max)
