"""A thorax that says what it holds: hard edges, no noise, every number countable."""

import numpy as np

SIZE = (140, 110, 60)
SPACING_MM = (1.0, 1.0, 1.0)
AIR, LUNG, BODY, BLOOD = -1000, -850, 40, 300
LUNG_CENTRES, LUNG_RADII = ((40, 55), (100, 55)), (22, 32)
LUNG_SLICES = slice(6, 54)
VESSELS = ((35, 40), (35, 70), (105, 40), (105, 70))  # axes of equal tubes along z, x and y
VESSEL_SLICES = slice(12, 48)


def oval(centre, radii):
    """Bool [X, Y], one slice."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]), indexing="ij")
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1


def lungs():
    """Bool [X, Y, Z]: both lungs with all that is in them."""
    mask = np.zeros(SIZE, bool)
    mask[:, :, LUNG_SLICES] = sum(oval(centre, LUNG_RADII) for centre in LUNG_CENTRES)[:, :, None]
    return mask


def tube(centre, slices=VESSEL_SLICES, radius=3):
    """Bool [X, Y, Z]."""
    mask = np.zeros(SIZE, bool)
    mask[:, :, slices] = oval(centre, (radius, radius))[:, :, None]
    return mask


def thorax(vessels=VESSELS):
    """int16 [X, Y, Z], HU."""
    volume = np.full(SIZE, AIR, np.int16)
    volume[oval((70, 55), (66, 48))] = BODY
    volume[lungs()] = LUNG
    for centre in vessels:
        volume[tube(centre)] = BLOOD
    return volume
