"""Heart, great vessels and windpipe of the phantom."""

import numpy as np

from ctpa_vqgan.data.phantom.canvas import Canvas, Slice, smooth_path
from ctpa_vqgan.data.phantom.patient import Patient
from ctpa_vqgan.data.phantom.trunk import ellipsoid

LONG_AXIS = (-0.7, 0.5, -0.51)  # from base to apex: to the left, the front and the feet
BASE = (-4.0, 5.0, -20.0)  # the heart grows and shrinks about its base

# In a CTPA the right heart is brighter: the contrast is caught on its way to the lungs.
# Centre mm, half-length along and half-width across the long axis in mm, wall mm, HU of the blood.
RIGHT_VENTRICLE = ((-10, 36, -58), 41, 21, 4, 290)
LEFT_VENTRICLE = ((-40, 6, -58), 42, 22, 10, 215)
# Centre mm, half-axes mm, wall mm, HU of the blood.
ATRIA = (((27, 14, -44), (21, 26, 31), 3, 290), ((-2, -17, -28), (34, 15, 20), 3, 225))
EPICARDIAL_FAT_MM = 5.0

CARINA = np.array([0.0, -23.0, 38.0])


# Paths of the great vessels: x, y, z and radius in mm.
def _vessel(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return smooth_path(np.array(rows, dtype=float))


AORTA = _vessel(
    *((-6, 8, -26, 14), (6, 14, -6, 16), (14, 19, 12, 15), (15, 18, 36, 15), (7, 13, 55, 14), (-11, 3, 65, 13)),
    *((-22, -16, 63, 13), (-26, -34, 50, 12.5), (-24, -45, 32, 12), (-24, -47, 0, 12), (-22, -45, -60, 11.5)),
    *((-14, -36, -120, 11), (-8, -30, -190, 10.5)),
)
ARCH_BRANCHES = (
    _vessel((4, 10, 66, 6.5), (18, 0, 105, 6), (26, -8, 150, 5), (27, -12, 190, 4.5)),
    _vessel((-11, -2, 70, 5), (-16, -4, 110, 4.5), (-24, -10, 150, 4.2), (-25, -12, 190, 4.2)),
    _vessel((-20, -16, 68, 5.5), (-20, -20, 115, 5), (-30, -16, 152, 5), (-60, -10, 174, 4.5), (-100, -6, 180, 4.5)),
)
SUPERIOR_CAVA = _vessel((27, 10, -14, 10), (28, 8, 30, 9.5), (27, 10, 75, 9), (26, 16, 98, 8.5))
BRACHIOCEPHALIC = (
    _vessel((26, 16, 98, 8), (36, 14, 125, 7), (60, 10, 146, 7), (100, -4, 156, 6)),
    _vessel((26, 16, 98, 8), (2, 26, 104, 7), (-28, 22, 118, 7), (-60, 10, 142, 6)),
)
INFERIOR_CAVA = _vessel((25, 4, -66, 11), (26, -8, -100, 12), (22, -18, -190, 12))
TRACHEA = _vessel((0, -14, 190, 8.5), (1, -16, 110, 8.5), (2, -20, 60, 8.5), (*CARINA, 8.5))
OESOPHAGUS = _vessel((-4, -26, 190, 6), (-6, -34, 100, 6), (-4, -40, 40, 6), (-4, -42, -40, 6.5), (-14, -28, -120, 7))


def paint_heart(s: Slice, patient: Patient) -> None:
    """Paint fat, walls and blood of the four chambers in one slice."""
    x, y, z = ((c - b) / patient.heart_scale + b for c, b in zip((s.x, s.y, s.z), BASE))
    local = s._replace(x=x, y=y, z=z)
    if not -130 < z < 20:
        return
    chambers = [
        (_oval, centre, (along, across, across), wall, hu)
        for centre, along, across, wall, hu in (RIGHT_VENTRICLE, LEFT_VENTRICLE)
    ]
    chambers += [(ellipsoid, *atrium) for atrium in ATRIA]
    # Fat fills the grooves between the chambers and the corners between heart and diaphragm.
    local.paint((ellipsoid(local, (-8, 10, -62), (48, 42, 44)) < 1) & local.holds("lung"), "fat")
    # Right ventricle first: the thick left one bulges into it and makes it a crescent.
    for shape, centre, half_axes, wall, _ in chambers:
        local.paint(shape(local, centre, _inflate(half_axes, wall + EPICARDIAL_FAT_MM)) < 1, "fat")
    for shape, centre, half_axes, wall, hu in chambers:
        local.paint(shape(local, centre, _inflate(half_axes, wall)) < 1, "heart_wall")
        local.paint(shape(local, centre, half_axes) < 1, "heart_blood", hu)


def draw_great_vessels(canvas: Canvas) -> None:
    """Draw aorta, caval veins, gullet and windpipe, bedded in mediastinal fat."""
    soft = (
        (OESOPHAGUS, "soft_tissue", 45),
        (INFERIOR_CAVA, "vessel", 130),
        (AORTA, "vessel", 220),
        *((branch, "vessel", 220) for branch in ARCH_BRANCHES),
        *((vein, "vessel", 260) for vein in BRACHIOCEPHALIC),
        (SUPERIOR_CAVA, "vessel", 400),  # undiluted contrast
    )
    for path, _, _ in soft:
        canvas.draw_tube(path[:, :3], path[:, 3] + 3, "fat", over=("lung",))
    for path, tissue, hu in soft:
        canvas.draw_tube(path[:, :3], path[:, 3] + 1, "soft_tissue", over=("fat", "soft_tissue"))
        canvas.draw_tube(path[:, :3], path[:, 3], tissue, hu)
    draw_airway(canvas, TRACHEA[:, :3], TRACHEA[:, 3])


def draw_airway(canvas: Canvas, path: np.ndarray, radius: np.ndarray) -> None:
    """Draw a tube of air with a wall of soft tissue.

    Args:
        canvas: where to draw.
        path: points along the airway in mm, shape [N, 3].
        radius: of the lumen at each point in mm, shape [N].
    """
    wall = 0.5 + 0.12 * radius
    canvas.draw_tube(path, radius + wall, "soft_tissue", over=("lung", "fat", "soft_tissue"))
    canvas.draw_tube(path, radius, "airway", over=("lung", "fat", "soft_tissue"))


def _inflate(half_axes: tuple[float, ...], by: float) -> tuple[float, ...]:
    return tuple(half + by for half in half_axes)


def _oval(s: Slice, centre: tuple[float, float, float], half_axes: tuple[float, ...]) -> np.ndarray:
    """Like `ellipsoid`, but round about the long axis of the heart."""
    x, y, z = s.x - centre[0], s.y - centre[1], s.z - centre[2]
    along = x * LONG_AXIS[0] + y * LONG_AXIS[1] + z * LONG_AXIS[2]
    return (along / half_axes[0]) ** 2 + (x**2 + y**2 + z**2 - along**2) / half_axes[1] ** 2
