"""Pulmonary circulation of the phantom: arteries with emboli, veins, and the bronchi beside the arteries."""

from typing import NamedTuple

import numpy as np

from ctpa_vqgan.data.phantom.canvas import LABELS, Canvas, smooth_path
from ctpa_vqgan.data.phantom.heart import CARINA, draw_airway
from ctpa_vqgan.data.phantom.tree import Branch, grow_tree

# From the right ventricle to where the trunk divides, and from there to each hilum, in mm.
TRUNK = np.array([(-15, 44, -42), (-22, 40, -18), (-21, 26, 8), (-14, 6, 22)], dtype=float)
RIGHT_STEM = np.array([(-14, 6, 22), (8, -5, 20), (30, -10, 17), (46, -14, 10)], dtype=float)
LEFT_STEM = np.array([(-14, 6, 22), (-28, -8, 30), (-42, -24, 28), (-50, -32, 16)], dtype=float)

# Left atrium to hilum for each vein, in mm: right upper, right lower, left upper, left lower.
VEIN_STEMS = np.array(
    [
        [(20, -16, -18), (36, -2, -6), (48, 4, 8)],
        [(20, -22, -34), (34, -32, -38), (46, -40, -44)],
        [(-26, -14, -16), (-38, 0, -4), (-48, 6, 10)],
        [(-26, -22, -34), (-36, -30, -38), (-46, -36, -44)],
    ],
    dtype=float,
)
TWIG_MM = 0.75  # radius
VEIN_TWIG_MM = 0.65
THINNEST_CLOTTED_MM = 2.2


class Circulation(NamedTuple):
    """What the lungs hold, before it is drawn on any grid.

    Attributes:
        arteries: the arterial tree; branch 0 is the pulmonary trunk.
        veins: four trees that end in the left atrium.
        emboli: pairs of a path in mm, shape [N, 3], and radii in mm, shape [N].
    """

    arteries: list[Branch]
    veins: list[Branch]
    emboli: list[tuple[np.ndarray, np.ndarray]]


def grow_circulation(points: np.ndarray, rng: np.random.Generator, min_mm: float = 0.0) -> Circulation:
    """Grow arteries, veins and emboli for lungs given as a cloud of points.

    Args:
        points: evenly spread over both lungs, in mm, shape [N, 3].
        rng: throws the clots.
        min_mm: leave out branches thinner than this, but none that can hold a clot.
    """
    min_mm = min(min_mm, THINNEST_CLOTTED_MM / 2 ** (1 / 3))  # the wider child of a branch is at least this wide
    right = points[:, 0] > 0
    arteries = [Branch(smooth_path(TRUNK), 0.0, -1)]
    for stem, lung in ((RIGHT_STEM, points[right]), (LEFT_STEM, points[~right])):
        arteries += _graft(stem, lung, TWIG_MM, min_mm, parent=0, offset=len(arteries))
    cube = sum(branch.radius**3 for branch in arteries if branch.parent == 0)
    arteries[0] = arteries[0]._replace(radius=cube ** (1 / 3))
    veins = []
    # The oblique fissure parts what the upper and the lower vein drain.
    upper = points[:, 2] + 0.9 * points[:, 1] > -15
    sides = (right & upper, right & ~upper, ~right & upper, ~right & ~upper)
    thinned = rng.random(len(points)) < 0.6
    for stem, side in zip(VEIN_STEMS, sides):
        veins += _graft(stem, points[side & thinned], VEIN_TWIG_MM, min_mm, parent=-1, offset=len(veins))
    return Circulation(arteries, veins, _throw_emboli(arteries, rng))


def lung_points(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Points spread over the painted lungs, one in each block of 2 x 2 x 2 voxels.

    Returns:
        Millimetres, shape [N, 3].
    """
    lung = canvas.labels == LABELS["lung"]
    corner = np.indices([n // 2 for n in lung.shape]).reshape(3, -1).T * 2
    chosen = corner + rng.integers(0, 2, corner.shape)
    chosen = chosen[lung[tuple(chosen.T)]]
    points = np.stack([axis[index] for axis, index in zip(canvas.axes, chosen.T[::-1])], axis=1)
    return points + rng.uniform(-0.4, 0.4, points.shape) * canvas.voxel_mm


def draw_circulation(canvas: Canvas, circulation: Circulation) -> None:
    """Draw veins, bronchi, arteries and emboli, in this order: what matters most is drawn last."""
    soft = ("lung", "fat", "soft_tissue", "airway", "vessel", "artery", "heart_wall")
    for branch in circulation.veins:
        canvas.draw_tube(branch.path, _flare(branch), "vessel", 240, over=soft)
    _draw_bronchi(canvas, circulation.arteries)
    trunk = circulation.arteries[0]
    canvas.draw_tube(trunk.path, _flare(trunk), "artery")  # it leaves from inside the heart
    for branch in circulation.arteries[1:]:
        canvas.draw_tube(branch.path, _flare(branch), "artery", over=soft)
    for path, radius in circulation.emboli:
        canvas.draw_tube(path, radius, "embolus", over=("artery",))


def _graft(
    stem: np.ndarray, points: np.ndarray, twig_mm: float, min_mm: float, parent: int, offset: int
) -> list[Branch]:
    """A tree whose root starts with the stem, numbered from ``offset``."""
    stem = smooth_path(stem)
    tree = grow_tree(stem[-1], stem[-1] - stem[-2], points, twig_mm, min_mm)
    root = tree[0]._replace(path=np.concatenate([stem, tree[0].path[1:]]), parent=parent)
    return [root, *(branch._replace(parent=branch.parent + offset) for branch in tree[1:])]


def _flare(branch: Branch) -> np.ndarray:
    """Radius at each point of a branch: it narrows a little from its origin to its end."""
    return branch.radius * np.linspace(1.08, 0.96, len(branch.path))


def _draw_bronchi(canvas: Canvas, arteries: list[Branch]) -> None:
    """A bronchus runs behind and below each larger artery: on a slice across both, a signet ring."""
    aside = 2.6 * np.array([0.0, -0.75, -0.66])  # bronchial radii between the two axes
    widest = 4.9
    thinnest_artery = max(1.7, 0.5 * canvas.voxel_mm[0])
    for root in (branch for branch in arteries if branch.parent == 0):
        hilum = root.path[-1]
        knots = np.array([CARINA, 0.6 * CARINA + 0.4 * hilum - (0, 4, 8), hilum + aside * widest])
        main = smooth_path(knots)
        draw_airway(canvas, main, np.linspace(7, widest, len(main)))
    for branch in arteries[1:]:
        if branch.parent > 0 and branch.radius > thinnest_artery:
            ends = 0.7 * arteries[branch.parent].radius, 0.7 * branch.radius
            radius = np.minimum(widest, np.linspace(*ends, len(branch.path)))
            draw_airway(canvas, branch.path + aside * radius[:, None], radius)


def _throw_emboli(arteries: list[Branch], rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Clots that lie lengthwise in branches and reach into a child, with a rim of contrast around them."""
    radius = np.array([branch.radius for branch in arteries])
    main = np.flatnonzero((radius > 8) & (radius < 0.95 * radius[0]))
    smaller = np.flatnonzero((radius > THINNEST_CLOTTED_MM) & (radius <= 8))
    chosen = [*rng.choice(main, 2, replace=False), *rng.choice(smaller, rng.integers(5, 10), replace=False)]
    emboli = []
    for index in chosen:
        body = arteries[index]
        child = max((branch for branch in arteries if branch.parent == index), key=lambda branch: branch.radius)
        keep = max(2, int(len(body.path) * rng.uniform(0.4, 0.7)))
        tail = child.path[1 : 1 + max(1, len(child.path) // 2)]
        path = np.concatenate([body.path[-keep:], tail])
        calibre = np.r_[np.full(keep, body.radius), np.full(len(tail), child.radius)]
        fill = np.clip(rng.uniform(0.5, 0.7) + rng.normal(0, 0.08, len(path)), 0.35, 0.75)
        fill[[0, -1]] = 0.35  # rounded ends
        # The clot leans on the wall, but a rim of contrast of a fifth of the radius stays all round.
        lean = rng.normal(size=3)
        path = path + ((0.8 - fill) * calibre)[:, None] * lean / np.linalg.norm(lean)
        emboli.append((path, fill * calibre))
    return emboli
