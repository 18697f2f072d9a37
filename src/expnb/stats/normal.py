"""The standard Normal distribution function of many values at once."""

from __future__ import annotations

import math
import sys

import numpy as np

from expnb.stats.arrays import FloatArray

# From here on importing SciPy costs less than what it saves; where it is there already it always does.
MANY = 20_000


def cdf(z: FloatArray) -> FloatArray:
    """P(Z < z), with all digits also far out on the left."""
    z = np.asarray(z, dtype=np.float64)
    if z.size < MANY and "scipy.special" not in sys.modules:
        root = math.sqrt(2.0)
        return np.reshape([0.5 * math.erfc(-value / root) for value in z.ravel().tolist()], z.shape)
    from scipy.special import ndtr  # noqa: PLC0415 - 0.5 s, only where it pays

    out: FloatArray = ndtr(z)
    return out
