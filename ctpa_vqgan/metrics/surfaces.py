"""Surfaces of known place, along which a phantom's edge runs."""

# X Y Z voxels; positions are voxel index * spacing_mm, voxel 0's centre is 0 mm

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

Point = tuple[float, float, float]


class Surface(Protocol):
    """What an edge can be: anything that knows how far from it a point lies."""

    def distance_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance in mm of points (x, y, z) in mm, negative inside."""
        ...


class Sphere(NamedTuple):
    """A ball: its MTF is the mean over all directions.

    Source: Thornton and Flynn, "Measurement of the spatial resolution of a clinical volumetric computed tomography
    scanner using a sphere phantom", Proc. SPIE 6142, 2006.
    """

    center_mm: Point
    radius_mm: float

    def distance_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to the surface in mm, negative inside the ball."""
        a, b, c = self.center_mm
        return np.sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) - self.radius_mm


class Cylinder(NamedTuple):
    """A rod without ends (crop the volume to where it is whole): the MTF across its axis, in plane for a rod along z.

    Source: Richard et al., "Towards task-based assessment of CT performance: System and object MTF across different
    reconstruction algorithms", Med. Phys. 39, 2012.
    """

    point_mm: Point  # any point on the axis
    direction: Point  # of the axis, in mm, of any length
    radius_mm: float

    def distance_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to the mantle in mm, negative inside the rod."""
        u, v, w = _unit("direction", self.direction)
        a, b, c = self.point_mm
        x, y, z = x - a, y - b, z - c
        cross = (y * w - z * v) ** 2 + (z * u - x * w) ** 2 + (x * v - y * u) ** 2
        return np.sqrt(cross) - self.radius_mm


class Plane(NamedTuple):
    """A flat edge, tilted by some degrees against the grid so that its voxels lie at all distances: the slanted edge.

    Source: Samei, Flynn and Reimann, "A method for measuring the presampled MTF of digital radiographic systems using
    an edge test device", Med. Phys. 25, 1998; ISO 12233.
    """

    point_mm: Point
    normal: Point  # towards the outside, in mm, of any length

    def distance_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to the plane in mm, positive on the side the normal points to."""
        u, v, w = _unit("normal", self.normal)
        a, b, c = self.point_mm
        return (x - a) * u + (y - b) * v + (z - c) * w


def _unit(name: str, vector: Sequence[float]) -> np.ndarray:
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        raise ValueError(f"{name} must be a vector of a length above 0, got {tuple(vector)}")
    return np.asarray(vector, dtype=np.float64) / length
