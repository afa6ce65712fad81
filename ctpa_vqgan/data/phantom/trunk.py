"""The soft trunk of the phantom: skin, fat, muscle, lungs, mediastinum, diaphragm and upper abdomen."""

import math

import numpy as np

from ctpa_vqgan.data.phantom.canvas import Slice
from ctpa_vqgan.data.phantom.patient import Patient

# Heights in mm, then half-width, half-depth and centre (y) of the pleural cavity; it closes at the apex.
CAGE_Z = (-180, -120, -60, 0, 60, 100, 130, 150, 166)
CAGE_HALF_WIDTH = (122, 127, 129, 125, 110, 90, 68, 46, 8)
CAGE_HALF_DEPTH = (84, 88, 90, 87, 77, 62, 47, 33, 6)
CAGE_CENTRE = (6, 6, 6, 5, 0, -10, -20, -27, -30)

SKIN_Z = (-180, -80, 20, 90, 140, 180)
SKIN_HALF_WIDTH = (150, 156, 159, 158, 154, 146)
SKIN_HALF_DEPTH = (116, 121, 120, 111, 97, 84)
SKIN_CENTRE = (8, 7, 6, -2, -13, -24)


def profile(z: float, heights: tuple[float, ...], values: tuple[float, ...]) -> float:
    """Interpolate a measure of the body at a height, rounding the corners of the table over 40 mm."""
    return float(np.interp(z + np.linspace(-20, 20, 9), heights, values).mean())


def spine_centre(z: float, patient: Patient) -> tuple[float, float]:
    """Centre (x, y) of the vertebral bodies in mm at a height: kyphosis and a slight sway."""
    return patient.scoliosis_mm * math.sin(z / 70), -48 - 14 * math.exp(-(((z - 5) / 110) ** 2))


def depth_in_wall(s: Slice, patient: Patient) -> np.ndarray:
    """Distance outwards from the pleura in mm, negative in the chest, shape [H, W].

    The spine pushes the back of the cavity forward: a kidney and not an ellipse.
    """
    a = profile(s.z, CAGE_Z, CAGE_HALF_WIDTH)
    b = profile(s.z, CAGE_Z, CAGE_HALF_DEPTH)
    centre = profile(s.z, CAGE_Z, CAGE_CENTRE)
    dent = 0.38 * b * np.exp(-((s.x / 32) ** 2)) * np.clip(-(s.y - centre) / 30, 0, 1)
    return _outline_distance(s.x, s.y - centre - dent, a, b, patient.roundness)


def paint_trunk(s: Slice, patient: Patient, wall: np.ndarray) -> None:
    """Paint the body of one slice, from the skin inwards.

    Args:
        s: slice of air.
        patient: whose chest it is.
        wall: see `depth_in_wall`.
    """
    _paint_wall(s, patient, wall)
    above = s.z - _diaphragm(s, patient)
    if s.z < max(patient.dome_mm):
        _paint_abdomen(s, patient, (wall < -2) & (above < 0), wall)
    _paint_chest(s, patient, (wall < -1.5) & (above > 0))


def _paint_wall(s: Slice, patient: Patient, wall: np.ndarray) -> None:
    a = profile(s.z, SKIN_Z, SKIN_HALF_WIDTH)
    b = profile(s.z, SKIN_Z, SKIN_HALF_DEPTH)
    y = s.y - profile(s.z, SKIN_Z, SKIN_CENTRE)
    furrow = np.where(y < 0, -6, 3) * np.exp(-((s.x / 16) ** 2)) * np.clip(np.abs(y) / 40 - 1, 0, 1)
    skin = -_outline_distance(s.x, y + furrow, a, b, 2.8)
    fascia = skin - patient.fat_mm * (0.7 + 0.5 * np.abs(s.x) / a)
    marbling = patient.texture_slice(s.x, s.y, s.z, coarseness=2)
    s.paint(skin > 0, "fat", -100 + 8 * marbling)
    s.paint((skin > 0) & (skin < 1.8), "soft_tissue", 10)
    # The muscles of the shoulder girdle keep close to the skin, those of the ribs to the pleura: the axilla is fat.
    across = np.abs(s.x) / a
    chest_muscles = 15 + 8 * min(max((s.z - 60) / 50, 0), 1)
    thickness = (
        5 + chest_muscles * np.exp(-(((across - 0.5) / 0.22) ** 2)) + 9 * np.clip(across - 0.6, 0, 1) * (s.y < 0)
    )
    paraspinal = np.hypot((np.abs(s.x) - 25) / 23, (s.y + 88) / 19) < 1
    muscle = ((fascia > 0) & (fascia < thickness)) | (wall < 11) | paraspinal
    planes = (np.abs(wall - 12.5) < 1) | (np.abs(fascia - 0.55 * thickness) < 0.8)
    streaks = (planes & (marbling > -0.8)) | (marbling > 2.1)
    s.paint(muscle & (fascia > 0), "soft_tissue", 52 + 5 * marbling)
    s.paint(muscle & (fascia > 0) & streaks & (wall > 11) & ~paraspinal, "fat")


def _paint_abdomen(s: Slice, patient: Patient, cavity: np.ndarray, wall: np.ndarray) -> None:
    s.paint(cavity, "fat")
    inside = cavity & (wall < -4)
    marbling = 5 * patient.texture_slice(s.x, s.y, s.z, coarseness=1.5)
    liver = (s.x + 0.35 * s.y > -30 + 0.3 * (s.z + 70)) & (s.y > -74 + 0.4 * np.abs(s.x - 70))
    s.paint(inside & liver, "soft_tissue", 80 + marbling)
    s.paint(inside & (ellipsoid(s, (-92, -46, -136), (30, 36, 40)) < 1), "soft_tissue", 115 + marbling)  # spleen
    stomach = ellipsoid(s, (-64, 20, -142), (46, 48, 50))
    s.paint(inside & (stomach < 1), "soft_tissue", 35)
    s.paint(inside & (stomach < 0.84) & (s.y > 38), "airway")  # the gastric bubble floats to the front


def _paint_chest(s: Slice, patient: Patient, cavity: np.ndarray) -> None:
    spine_x, spine_y = spine_centre(s.z, patient)
    marbling = patient.texture_slice(s.x, s.y, s.z, coarseness=2)
    s.paint(cavity, "fat", -95 + 8 * marbling)
    s.paint(cavity & (marbling > 2), "soft_tissue", 40)  # lymph nodes
    bulge = profile(s.z, (-90, -30, 20, 60, 110, 160), (12, 18, 26, 25, 17, 15))
    middle = 5 + bulge * np.exp(-(((s.y + 14) / 34) ** 2))
    column = np.hypot((s.x - spine_x) / 22, (s.y - spine_y) / 18) < 1
    column |= (np.abs(s.x - spine_x) < 19) & (s.y < spine_y)
    s.paint(cavity & column, "soft_tissue", 45)
    lung = cavity & (np.abs(s.x + 2 + 0.06 * s.y + 2 * math.sin(s.z / 30)) > middle) & ~column
    fine = patient.texture_slice(s.x, s.y, s.z)
    coarse = patient.texture_slice(s.x, s.y, s.z, coarseness=9)
    # Gravity: a lung on its back is denser at the back.
    s.paint(lung, "lung", -850 - 0.35 * s.y + 22 * fine + 8 * coarse)
    oblique = np.abs(s.z + 10 + 0.9 * s.y + 0.1 * np.abs(s.x) - np.where(s.x < 0, 12, 0)) < 0.8
    horizontal = (np.abs(s.z - 5 + 0.1 * s.y) < 0.6) & (s.x > 0) & (s.y > -20)
    s.paint(lung & (oblique | horizontal), "lung", -740)  # fissures


def _diaphragm(s: Slice, patient: Patient) -> np.ndarray:
    """Height of the diaphragm in mm, shape [H, W]: two domes, steep at the side and deepest at the back."""
    right, left = patient.dome_mm
    y = (s.y - 12) / 88
    fall = np.where(y < 0, y**2, 0.45 * y**2)
    x = np.abs(s.x) - 64
    over_dome = 75 * ((np.where(x < 0, 0.6 * x, x) / 70) ** 2 + fall) ** 1.2
    share = 1 / (1 + np.exp(-s.x / 8))  # of the right dome
    return left + (right - left) * share - over_dome


def ellipsoid(s: Slice, centre: tuple[float, float, float], half_axes: tuple[float, float, float]) -> np.ndarray:
    """Squared relative distance from the centre of an upright ellipsoid: below 1 inside, shape [H, W]."""
    (cx, cy, cz), (a, b, c) = centre, half_axes
    return ((s.x - cx) / a) ** 2 + ((s.y - cy) / b) ** 2 + ((s.z - cz) / c) ** 2


def _outline_distance(x: np.ndarray, y: np.ndarray, a: float, b: float, roundness: float) -> np.ndarray:
    """Distance outwards from the oval |x / a|^roundness + (y / b)^2 = 1 along the ray from its centre, in mm."""
    relative = np.sqrt(np.abs(x / a) ** roundness + (y / b) ** 2)
    return np.sqrt(x**2 + y**2) * (1 - 1 / np.maximum(relative, 1e-3))
