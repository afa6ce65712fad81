"""Bones of the phantom: ribs, spine, sternum, clavicles and shoulder blades."""

import numpy as np

from ctpa_vqgan.data.phantom.canvas import Canvas, Slice
from ctpa_vqgan.data.phantom.patient import Patient
from ctpa_vqgan.data.phantom.trunk import CAGE_CENTRE, CAGE_HALF_DEPTH, CAGE_Z, profile, spine_centre

VERTEBRA_MM = 26.0  # one vertebra with its disc, and one pair of ribs
TOP_RIB_MM = 150.0  # height of the first rib at the spine
NUM_RIBS = 12


def paint_skeleton(s: Slice, patient: Patient, wall: np.ndarray) -> None:
    """Paint the bones of one slice over the trunk.

    Args:
        s: slice with the trunk painted.
        patient: whose chest it is.
        wall: distance outwards from the pleura in mm, shape [H, W].
    """
    _paint_ribs(s, patient, wall)
    _paint_shoulder_blades(s, wall)
    _paint_spine(s, patient)
    _paint_sternum(s)


def draw_clavicles(canvas: Canvas) -> None:
    """Draw the collar bones from the sternum to the shoulders."""
    for side in (-1, 1):
        path = np.array([[18, 34, 112], [50, 36, 128], [85, 18, 150], [120, -12, 168]]) * (side, 1, 1)
        canvas.draw_tube(path, np.array([8.0, 6.0, 6.0, 7.0]), "bone", 600)
        canvas.draw_tube(path, np.array([5.0, 3.0, 3.0, 4.0]), "bone", 250)


def _paint_ribs(s: Slice, patient: Patient, wall: np.ndarray) -> None:
    """A rib is an oblique planar ring on the wall: high at the spine and low at the sternum."""
    top = TOP_RIB_MM + patient.rib_phase_mm
    order = (top - s.z - patient.rib_slope * (s.y + 75)) / VERTEBRA_MM
    rib = np.rint(order)
    height = (order - rib) * VERTEBRA_MM / np.hypot(1, patient.rib_slope)
    # The last ribs float: the lower the rib, the further back it ends.
    tip = np.interp(rib, (0, 6, 9, 11), (130, 130, 45, -25))
    exists = (rib >= 0) & (rib < NUM_RIBS) & (s.y < tip) & (np.abs(s.x) > 16)
    section = ((wall - 5.5) / 4.2) ** 2 + (height / 6.3) ** 2
    bone = exists & (section < 1)
    cartilage = bone & (s.y > 38 - 0.25 * (np.abs(s.x) - 60))
    s.paint(bone & ~cartilage, "bone", np.where(section > 0.42, 620, 230))
    s.paint(cartilage, "soft_tissue", 110)


def _paint_shoulder_blades(s: Slice, wall: np.ndarray) -> None:
    # Arms are raised in the scanner: the blades turn outwards along the back of the cage.
    if not 20 < s.z < 165:
        return
    x = np.abs(s.x)
    medial = 62 + 0.12 * (s.z - 20)
    lateral = float(np.interp(s.z, (20, 60, 165), (74, 108, 132)))
    plate_y = -75 + 0.55 * (x - 62) - 0.05 * (s.z - 60) + 4 * np.sin((x - 62) / 14)
    across = np.abs(s.y - plate_y)
    bed = (x > medial - 4) & (x < lateral + 6) & (across < min(15, 165 - s.z)) & (wall > 12)
    s.paint(bed & s.holds("fat"), "soft_tissue", 52)  # subscapular and infraspinate muscles
    rim = (x - medial < 5) | (lateral - x < 9)
    blade = (x > medial) & (x < lateral) & (across < np.where(rim, 4.5, 2.2)) & (wall > 13)
    s.paint(blade, "bone", np.where(rim & (across < 2.5), 260, 560))


def _paint_spine(s: Slice, patient: Patient) -> None:
    cx, cy = spine_centre(s.z, patient)
    x, y = s.x - cx, s.y - cy
    grow = 0.98 - 0.00075 * s.z  # vertebrae get smaller towards the neck
    level = (s.z - patient.rib_phase_mm) / VERTEBRA_MM
    height = (level - np.rint(level)) * VERTEBRA_MM  # from the middle of the vertebra, up to 13 mm
    waist = grow * (1 + 0.0009 * height**2)
    # A body is an oval whose back is flattened by the canal.
    rim = np.sqrt((x / (15.5 * waist)) ** 2 + (np.where(y < 0, y * 1.12, y) / (13.5 * waist)) ** 2)
    canal_y = y + 22 * grow
    canal = np.hypot(x / 9.5, canal_y / 8)
    arch = (canal < 1.55) & (np.abs(height + 2) < 9)
    transverse = (np.abs(canal_y + 3 - 0.12 * np.abs(x)) < 4.5) & (np.abs(x) < 31) & (np.abs(height - 2) < 5.5)
    # A thoracic spinous process points down: at the tip it lies one vertebra lower.
    droop = (height - canal_y - 12 + VERTEBRA_MM / 2) % VERTEBRA_MM - VERTEBRA_MM / 2
    spinous = (np.abs(x) < 3.4) & (canal_y < -9) & (canal_y > -29) & (np.abs(droop) < 6.5)
    s.paint(arch, "bone", 480)
    s.paint(transverse, "bone", np.where(np.abs(height - 2) < 3, 260, 520))
    s.paint(spinous, "bone", np.where(np.abs(x) < 1.8, 280, 560))
    s.paint(canal < 1, "soft_tissue", np.where(canal < 0.6, 45, 20))
    body, end_plate = rim < 1, abs(height) > 9.6
    if abs(height) > 11.2:
        s.paint(body, "soft_tissue", 95)  # disc
    else:
        marrow = 190 + 18 * patient.texture_slice(s.x, s.y, s.z)
        s.paint(body, "bone", np.where((rim > 0.88) | end_plate, 520, marrow))


def _paint_sternum(s: Slice) -> None:
    if not -62 < s.z < 112:
        return
    front = profile(s.z, CAGE_Z, CAGE_CENTRE) + profile(s.z, CAGE_Z, CAGE_HALF_DEPTH)
    half_width = profile(s.z, (-62, -50, 0, 60, 85, 112), (5, 13, 17, 14, 26, 24))
    rim = np.sqrt((s.x / half_width) ** 2 + ((s.y - front - 6) / 6.5) ** 2)
    s.paint(rim < 1, "bone", np.where(rim > 0.78, 480, 200))
