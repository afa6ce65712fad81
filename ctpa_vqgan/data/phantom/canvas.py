"""The voxel grid a phantom is painted on, in millimetres of the patient."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

LABELS = {
    "outside": 0,  # air around the patient
    "padding": 1,  # outside the circular field of view: no measurement
    "table": 2,
    "fat": 3,
    "soft_tissue": 4,  # muscle, abdominal organs, cartilage, bronchial walls
    "lung": 5,
    "airway": 6,
    "bone": 7,
    "heart_wall": 8,
    "heart_blood": 9,
    "vessel": 10,  # aorta and its branches, systemic and pulmonary veins
    "artery": 11,  # the pulmonary arteries: what a CTPA is about
    "embolus": 12,
}
"""Name -> value in the label map."""

HU = {
    "outside": -1000,
    "padding": -2048,
    "table": -300,
    "fat": -100,
    "soft_tissue": 50,
    "lung": -850,
    "airway": -1000,
    "bone": 400,  # the mean of cortex (up to 700) and marrow (about 200)
    "heart_wall": 110,
    "heart_blood": 250,
    "vessel": 230,
    "artery": 350,
    "embolus": 60,
}
"""Name -> nominal value in Hounsfield units, before noise."""


class Slice(NamedTuple):
    """One axial slice of a canvas: views of its voxels and the millimetre coordinates that address them.

    Attributes:
        x: to the patient's right, shape [1, W].
        y: to the patient's front, shape [H, 1].
        z: to the patient's head, one number.
        hu: shape [H, W], int16.
        labels: shape [H, W], uint8.
    """

    x: np.ndarray
    y: np.ndarray
    z: float
    hu: np.ndarray
    labels: np.ndarray

    def paint(self, where: np.ndarray, tissue: str, hu: float | np.ndarray | None = None) -> None:
        """Give the voxels of a mask a tissue, at its nominal HU unless told otherwise."""
        np.copyto(self.labels, LABELS[tissue], where=where)
        np.copyto(self.hu, HU[tissue] if hu is None else hu, where=where, casting="unsafe")

    def holds(self, tissue: str) -> np.ndarray:
        """Mask of the voxels painted with a tissue so far."""
        return self.labels == LABELS[tissue]


class Canvas:
    """HU and labels on a grid centred on the patient.

    Voxels are stored slice after slice, [D, H, W], so that a slice is contiguous; their transpose is [x, y, z].

    Args:
        size: voxels along x, y, z.
        voxel_mm: distance between voxels along x, y, z in the patient's millimetres.
    """

    def __init__(self, size: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> None:
        self.hu = np.full(size[::-1], HU["outside"], dtype=np.int16)
        self.labels = np.full(size[::-1], LABELS["outside"], dtype=np.uint8)
        self.voxel_mm = voxel_mm
        self.axes = tuple(((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(size, voxel_mm))

    def slices(self) -> list[Slice]:
        """The axial slices from feet to head, as views."""
        x, y, z = self.axes
        return [Slice(x[None, :], y[:, None], float(z[k]), self.hu[k], self.labels[k]) for k in range(len(z))]

    def draw_tube(
        self,
        path: np.ndarray,
        radius: np.ndarray,
        tissue: str,
        hu: float | None = None,
        over: Iterable[str] = tuple(LABELS),
    ) -> None:
        """Draw a chain of cones with round joints, touching only the voxels around each cone.

        The edge is anti-aliased; a tube thinner than a voxel is painted as faintly as its share of the voxel.

        Args:
            path: points along the axis of the tube in millimetres, shape [N, 3], N >= 2.
            radius: radius at each point in millimetres, shape [N].
            tissue: its label is set where the tube fills at least half a voxel.
            hu: value inside; the tissue's nominal one if None.
            over: the tissues it may replace.
        """
        value = HU[tissue] if hu is None else hu
        allowed = np.zeros(len(LABELS), dtype=np.float32)
        allowed[[LABELS[name] for name in over]] = 1
        for k in range(len(path) - 1):
            self._draw_cone(path[k], path[k + 1], radius[k], radius[k + 1], LABELS[tissue], value, allowed)

    def _draw_cone(self, start, end, start_radius, end_radius, label: int, hu: float, allowed: np.ndarray) -> None:
        edge = sum(self.voxel_mm) / 3
        reach = max(start_radius, end_radius) + edge
        box = []
        for axis, a, b in zip(self.axes, start, end):
            low, high = np.searchsorted(axis, (min(a, b) - reach, max(a, b) + reach))
            if low == high:
                return
            box.append(slice(low, high))
        offset = [axis[part] - a for axis, part, a in zip(self.axes, box, start.astype(np.float32))]
        dx, dy, dz = offset[0][None, None, :], offset[1][None, :, None], offset[2][:, None, None]
        run = (end - start).astype(np.float32)
        along = (dx * run[0] + dy * run[1] + dz * run[2]) / max(float(run @ run), 1e-6)
        np.minimum(np.maximum(along, 0, out=along), 1, out=along)
        distance = np.sqrt((dx - along * run[0]) ** 2 + (dy - along * run[1]) ** 2 + (dz - along * run[2]) ** 2)
        radius = np.float32(start_radius) + along * np.float32(end_radius - start_radius)
        # A disc narrower than the voxel covers (2 r / edge)^2 of it, whatever the ramp says.
        cover = np.minimum(np.maximum((radius - distance) / edge + 0.5, 0), 1) * np.minimum(1, (2 * radius / edge) ** 2)
        region = (box[2], box[1], box[0])
        cover *= allowed[self.labels[region]]
        old = self.hu[region]
        self.hu[region] = np.rint(old + cover * (hu - old))
        self.labels[region][cover >= 0.5] = label


def smooth_path(knots: np.ndarray, num_steps: int = 4) -> np.ndarray:
    """Round the corners of a polyline with a Catmull-Rom spline, shape [N, C] -> [(N - 1) * num_steps + 1, C]."""
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = np.arange(num_steps)[:, None] / num_steps
    parts = [
        b + 0.5 * t * ((c - a) + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:])
    ]
    return np.concatenate([*parts, knots[-1:]])
