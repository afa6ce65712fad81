"""Grow a vascular tree into a cloud of points, as a lung is perfused: no branch without a territory."""

from typing import NamedTuple

import numpy as np


class Branch(NamedTuple):
    """One unbranched stretch of a vessel.

    Attributes:
        path: points along its axis in mm, shape [N, 3]; the first is the last of its parent.
        radius: in mm.
        parent: index of the branch it springs from, -1 for a root.
    """

    path: np.ndarray
    radius: float
    parent: int


def grow_tree(
    start: np.ndarray, heading: np.ndarray, points: np.ndarray, twig_mm: float, min_mm: float = 0.0
) -> list[Branch]:
    """Fill a cloud of points with a tree that bifurcates until every twig serves one point.

    A branch grows towards the centre of its points; there they are split across their widest direction and each half
    gets a child (the host-filling algorithm of Tawhai et al., J Appl Physiol 97:2310, 2004). A branch that serves n
    twigs of equal radius r is r * n^(1/3) wide, which is Murray's law r^3 = r1^3 + r2^3 at every fork.

    Args:
        start: root of the tree in mm, shape [3].
        heading: direction in which the root leaves, shape [3].
        points: where blood is wanted, in mm, shape [N, 3], N >= 1.
        twig_mm: radius of a twig.
        min_mm: leave out branches thinner than this; the others stay what they were.

    Returns:
        Branches in such an order that parents come before their children.
    """
    tree: list[Branch] = []
    todo = [(start, heading / np.linalg.norm(heading), points, -1)]
    while todo:
        start, heading, cloud, parent = todo.pop()
        radius = twig_mm * len(cloud) ** (1 / 3)
        if radius < min_mm:
            continue
        reach = cloud.mean(axis=0) - start
        path = _bend(start, heading, start + reach * (0.42 if len(cloud) > 1 else 0.9))
        tree.append(Branch(path, radius, parent))
        if len(cloud) > 1:
            tip = path[-1] - path[-2]
            tip /= max(float(np.linalg.norm(tip)), 1e-6)
            todo += [(path[-1], tip, half, len(tree) - 1) for half in _split(cloud, tip)]
    return tree


def _split(cloud: np.ndarray, heading: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a cloud through its centre, across the direction in which it is widest seen along the branch."""
    if len(cloud) == 2:  # nothing to choose, and half of all forks
        return cloud[:1], cloud[1:]
    centred = cloud - cloud.mean(axis=0)
    seen = centred - 0.7 * np.outer(centred @ heading, heading)
    # einsum and not @: its sum does not depend on the number of threads.
    widest = np.linalg.eigh(np.einsum("ni,nj->ij", seen, seen))[1][:, -1]
    side = seen @ widest
    order = np.argsort(side, kind="stable")
    cut = min(max(int((side < 0).sum()), 1), len(cloud) - 1)
    return cloud[order[:cut]], cloud[order[cut:]]


def _bend(start: np.ndarray, heading: np.ndarray, end: np.ndarray) -> np.ndarray:
    """A curve that leaves along the parent's heading: a quadratic Bezier in steps of about 6 mm."""
    length = float(np.linalg.norm(end - start))
    control = start + 0.35 * length * heading
    t = np.linspace(0, 1, int(length / 6) + 2)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
