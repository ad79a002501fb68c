"""Array modules: NumPy here, CuPy where there is a GPU, array-api-strict in tests.

The science core never imports cupy; it takes the module as `xp`, or from the array it is given.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

Array = Any  # an array of any of these modules
Module = Any


def namespace(*arrays: Array) -> Module:
    """The array module of `arrays`."""
    return array_api_compat.array_namespace(*arrays)


def fft(xp: Module) -> Module:
    """The FFT functions for arrays of `xp`; SciPy's for NumPy, which keep single precision fast."""
    if array_api_compat.is_numpy_namespace(xp):
        import scipy.fft

        return scipy.fft
    return xp.fft


def as_complex(real: Array, imaginary: Array) -> Array:
    """real + i imaginary, in the precision of the parts."""
    if isinstance(real, np.ndarray):
        # half the time of the sum below, and where a small crystal spends much of it
        joined = np.empty(real.shape, np.complex64 if real.dtype == np.float32 else np.complex128)
        joined.real, joined.imag = real, imaginary
        return joined
    xp = namespace(real)
    kind = xp.complex64 if real.dtype == xp.float32 else xp.complex128
    return xp.astype(real, kind) + 1j * xp.astype(imaginary, kind)


def to_numpy(array: Array) -> NDArray[Any]:
    """A copy (or view) of `array` in the memory of the host."""
    if array_api_compat.is_cupy_array(array):
        return array.get()  # type: ignore[no-any-return]
    return np.asarray(array)


def gpu() -> Module | None:
    """CuPy, where it is installed and sees a device; else None."""
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() == 0:
            return None
    except Exception:
        # CuPy raises errors of its own where there is no driver
        return None
    import array_api_compat.cupy

    return array_api_compat.cupy


def limit_memory(xp: Module, share: float) -> None:
    """Hold CuPy's pool below a share of the device, so that actors beside one another leave room; no-op elsewhere."""
    if hasattr(xp, "get_default_memory_pool"):
        xp.get_default_memory_pool().set_limit(fraction=share)
