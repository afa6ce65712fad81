"""How far points lie from surfaces."""

import numpy as np
import pytest

from ctpa_vqgan.metrics.surfaces import Cylinder, Plane, Sphere


def test_distances_are_those_of_the_geometry_book():
    point = np.array(3.0), np.array(4.0), np.array(12.0)
    assert Sphere((0, 0, 0), 10).distance_mm(*point) == pytest.approx(3)
    assert Cylinder((0, 0, 99), (0, 0, -7), 4).distance_mm(*point) == pytest.approx(1)
    assert Cylinder((0, 0, 0), (3, 4, 12), 4).distance_mm(*point) == pytest.approx(-4, abs=1e-6)
    assert Plane((0, 0, 2), (0, 0, 5)).distance_mm(*point) == pytest.approx(10)
