"""The chest with its voxels changed: by faults, by other scales, and by what is odd but right."""

from __future__ import annotations

import numpy as np

from corpus.patient import SHAPE, chest


def changed(value, *where, dtype=None, base=None) -> np.ndarray:
    """The chest with one value at an index, or at several."""
    voxels = np.array(chest() if base is None else base, dtype=dtype)
    for index in where:
        voxels[index] = value
    return voxels


def corners() -> np.ndarray:
    """Where no ray of the scanner goes: outside the circle of every slice."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[:2]), indexing="ij")
    return x**2 + y**2 > 1


def padded(value: int) -> np.ndarray:
    """The chest with a scanner's padding around the circle."""
    return changed(value, corners())


def windowed(low: float, high: float, top: float) -> np.ndarray:
    """A display window as numbers from 0 to ``top``, of a scan whose noise fills all the greys between."""
    return np.clip((chest(noise=60.0) - low) / (high - low), 0, 1) * top


def labels(count: int) -> np.ndarray:
    """A segmentation of ``count`` organs, and 0 around them."""
    x, y, z = np.indices(SHAPE)
    return np.where(chest() > -300, 1 + (x // 4 + 17 * (y // 8) + 31 * (z // 5)) % count, 0)


def copied(source: int, target: int) -> np.ndarray:
    """The chest with one slice overwritten by another."""
    return changed(chest()[..., source], (..., target))


def repeated(index: int) -> np.ndarray:
    """The chest with one slice twice."""
    return np.insert(chest(), index, chest()[..., index], axis=2)


def garbage(dtype: str) -> np.ndarray:
    """Voxels of random bits."""
    size = int(np.prod(SHAPE)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(7).bytes(size), dtype).reshape(SHAPE)


def with_box(voxels):
    """Lungs as crude phantoms have them, in all slices from one to another."""
    voxels = voxels.copy()
    voxels[16:28, 20:44, 10:30] = voxels[36:48, 20:44, 10:30] = -850
    return voxels


def metal(top: int, dtype: str = "i2") -> np.ndarray:
    """The chest with a clip of up to ``top`` HU in the heart."""
    return changed(np.linspace(3071, top, 4), np.s_[30:34, 30:34, 10:14], dtype=dtype)


def mediastinum() -> np.ndarray:
    """A crop within the chest: heart, aorta, and a rim of lung."""
    return chest(window=((-0.2, 0.12), (0.0, 0.4), (0.3, 0.6)))


def bright(voxels: np.ndarray) -> np.ndarray:
    """Contrast near 1000 HU, as at 80 kV, at 40 keV of a dual-energy scan, or before the bolus mixes."""
    return np.where((voxels > 230) & (voxels < 440), voxels + 650, voxels)
