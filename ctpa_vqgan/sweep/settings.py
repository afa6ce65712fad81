"""Which settings of the sliding window are worth a try, and where: a part of the case that is large enough for them."""

# X Y Z voxels

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ctpa_vqgan.data import grid_windows
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers.sliding import BLEND_MODES

Size = tuple[int, int, int]


class Setting(NamedTuple):
    """One way to go over a volume with windows.

    Attributes:
        window: sides in voxels, the knob ``patch_size``.
        stride: voxels from window to window, the knob ``stride``.
        mode: of :data:`~ctpa_vqgan.inferers.sliding.BLEND_MODES`, the knob ``blend_mode``.
        sigma_scale: of the Gaussian, in windows, the knob ``sigma_scale``; None for the other modes.
    """

    window: Size
    stride: Size
    mode: str
    sigma_scale: float | None

    def num_windows(self, size: Sequence[int]) -> int:
        """Windows that a volume takes."""
        return math.prod(map(len, self.starts(size)))

    def starts(self, size: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Where windows begin along each axis."""
        axes = (grid_windows(*((side,) for side in sides)) for sides in zip(size, self.window, self.stride))
        return tuple(tuple(int(place.start) for (place,) in axis) for axis in axes)

    def knobs(self) -> dict[str, Any]:
        """The knobs of the bundle that bring this setting about."""
        sigma = {} if self.sigma_scale is None else {"sigma_scale": self.sigma_scale}
        return {"patch_size": list(self.window), "stride": list(self.stride), "blend_mode": self.mode, **sigma}


@dataclass(frozen=True)
class Choices:
    """What is tried of each knob, and the setting around which it is tried.

    Args:
        windows: sides in voxels, three for each window.
        overlaps: shares of a window that neighbours share; steps are rounded to whole codes.
        blend_modes: of :data:`~ctpa_vqgan.inferers.sliding.BLEND_MODES`.
        sigma_scales: of the Gaussian, in windows.
        most: where more settings differ than that, only those that are one knob away from the default are tried.
        factor: voxels per code and axis.
        patch_size: the window of the default; the next three are the other knobs that belong to it.
        stride: see ``patch_size``.
        blend_mode: see ``patch_size``.
        sigma_scale: see ``patch_size``.

    Raises:
        UserError: names the knob that is no list of what it should be.
    """

    windows: Sequence[Sequence[int]]
    overlaps: Sequence[float]
    blend_modes: Sequence[str]
    sigma_scales: Sequence[float]
    most: int
    factor: Sequence[int]
    patch_size: Sequence[int]
    stride: Sequence[int]
    blend_mode: str = "gaussian"
    sigma_scale: float = 0.125

    def __post_init__(self) -> None:
        def is_window(sides: Any) -> bool:
            triple = isinstance(sides, (list, tuple)) and len(sides) == 3
            return triple and all(_is_whole(side) and side > 0 and side % f == 0 for side, f in zip(sides, self.factor))

        def check(name: str, expected: str, example: Any, fits: Any) -> None:
            found = getattr(self, name)
            if not isinstance(found, (list, tuple)) or not found or not all(map(fits, found)):
                raise UserError(f"sweep_{name}: expected a list of {expected} such as {example}, found {found!r}")

        factor = "x".join(map(str, self.factor))
        check("windows", f"windows whose sides are multiples of the factor {factor}", [[64, 64, 32]], is_window)
        check("overlaps", "numbers from 0 to below 1", [0.0, 0.25], lambda o: _is_number(o) and 0 <= o < 1)
        check("blend_modes", f"{', '.join(BLEND_MODES)}", ["gaussian"], lambda mode: mode in BLEND_MODES)
        check("sigma_scales", "numbers above 0", [0.125, 0.25], lambda s: _is_number(s) and 0 < s < math.inf)
        if not _is_whole(self.most) or self.most < 1:
            raise UserError(f"sweep_settings: expected a whole number of at least 1, found {self.most!r}")


class Chosen(NamedTuple):
    """What a sweep tries.

    Attributes:
        settings: the default first.
        num_possible: all that the lists give and that differ.
        too_large: windows that the part of the case has no room for as they are; clipped to it they may be tried.
    """

    settings: list[Setting]
    num_possible: int
    too_large: list[Size]


def default_windows(patch_size: Sequence[int], factor: Sequence[int]) -> list[list[int]]:
    """The window, half of it and a quarter of it along each axis, in whole codes."""
    return [[max(side // part // f, 1) * f for side, f in zip(patch_size, factor)] for part in (1, 2, 4)]


def choose(choices: Choices, size: Size, full: Size) -> Chosen:
    """The settings that differ within a part of a case.

    Windows are clipped to the part, and settings that then lay the same windows with the same weights are tried once.
    Where nothing overlaps, modes and sigmas mean nothing, nor do sigmas without a Gaussian. Where the part is smaller
    than the case, a step must fit into it: an inferer moves its last window back, and would show another overlap.

    Args:
        choices: of each knob.
        size: of the part, padded to the factor.
        full: of the case, padded alike.

    Raises:
        UserError: if no two windows fit beside each other into a part that is smaller than the case.
    """
    windows = list(dict.fromkeys(tuple(map(min, window, size)) for window in choices.windows))
    overlaps = [float(overlap) for overlap in choices.overlaps]
    blends = list(_blends(choices))
    shared = sum(1 - step / side for step, side in zip(choices.stride, choices.patch_size)) / 3
    usual_overlap = min(overlaps, key=lambda overlap: abs(overlap - shared))
    usual_blend = _usual_blend(choices, blends)
    overlaps.sort(key=lambda overlap: overlap != usual_overlap)

    found: dict[Any, tuple[Setting, tuple]] = {}  # with the labels by which settings are told apart
    fitting = set()
    for window, overlap in itertools.product(windows, overlaps):
        stride = _stride(window, overlap, choices.factor)
        if any(s < f and w < s < w + step for w, s, f, step in zip(window, size, full, stride)):
            continue
        fitting.add(window)
        blended = any(step < w < s for w, s, step in zip(window, size, stride))
        for blend in blends if blended else [usual_blend]:
            setting = Setting(window, stride, *blend)
            found.setdefault(_effect(setting, size), (setting, (window, overlap, blend)))
    comparable = [window for window in windows if window in fitting and is_comparable(window, size, full)]
    if not comparable:
        raise UserError(
            f"sweep_voxels: {by(size)} voxels of this case have no room for two windows of "
            f"{by(min(windows, key=math.prod))} beside each other; raise sweep_voxels (null takes the whole case) or "
            "add smaller ones to sweep_windows"
        )
    usual = (_usual_window(choices.patch_size, size, comparable), usual_overlap, usual_blend)
    away = {setting: sum(a != b for a, b in zip(labels, usual)) for setting, labels in found.values()}
    ranked = sorted(away, key=lambda setting: away[setting] > 0)
    few = len(ranked) <= choices.most
    too_large = [
        tuple(window)
        for window in choices.windows
        if tuple(map(min, window, size)) not in fitting or any(s < min(w, f) for w, s, f in zip(window, size, full))
    ]
    return Chosen([setting for setting in ranked if few or away[setting] <= 1], len(ranked), too_large)


def is_comparable(window: Size, size: Size, full: Size) -> bool:
    """Whether windows meet in the part along every axis along which they do in the case."""
    return all(w < s or s == f for w, s, f in zip(window, size, full))


def crop_size(shape: Sequence[int], voxels: float | None, patch_size: Sequence[int], factor: Sequence[int]) -> Size:
    """Sides of a part of so many voxels, in the proportions of a window and in whole codes; the shape if it is enough.

    Raises:
        UserError: if ``voxels`` is no number, or less than a single code stands for.
    """
    if voxels is None:
        return tuple(shape)
    if not _is_number(voxels) or not voxels >= math.prod(factor):
        raise UserError(
            f"sweep_voxels: expected null or at least the {math.prod(factor)} voxels of one code, found {voxels!r}"
        )
    if math.prod(shape) <= voxels:
        return tuple(shape)

    def sides(scale: float) -> Size:
        wanted = (max(int(scale * p) // f, 1) * f for p, f in zip(patch_size, factor))
        return tuple(s if side >= s else side for side, s in zip(wanted, shape))

    low, high = 0.0, max(s / p for s, p in zip(shape, patch_size)) + 1
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(sides(middle)) <= voxels else (low, middle)
    return sides(low)


def _blends(choices: Choices) -> Iterator[tuple[str, float | None]]:
    for mode in choices.blend_modes:
        yield from ((mode, float(s)) for s in choices.sigma_scales) if mode == "gaussian" else [(mode, None)]


def _usual_blend(choices: Choices, blends: list[tuple[str, float | None]]) -> tuple[str, float | None]:
    """The blend of the default, or the nearest one that is tried."""
    sigma = choices.sigma_scale
    return min(blends, key=lambda b: (b[0] != choices.blend_mode, abs((sigma if b[1] is None else b[1]) - sigma)))


def _usual_window(patch_size: Sequence[int], size: Size, windows: list[Size]) -> Size:
    """The default's window if it has neighbours, or the largest that has; one alone where all are."""
    neighbours = [window for window in windows if any(w < s for w, s in zip(window, size))] or windows
    wanted = tuple(map(min, patch_size, size))
    return wanted if wanted in neighbours else max(neighbours, key=math.prod)


def _stride(window: Size, overlap: float, factor: Sequence[int]) -> Size:
    """The step, in whole codes, that shares about ``overlap`` of the window."""
    return tuple(min(max(round(side * (1 - overlap) / f), 1) * f, side) for side, f in zip(window, factor))


def _effect(setting: Setting, size: Size) -> tuple:
    """What two settings have in common that give the same result on a volume of this size."""
    ramp = setting.stride if setting.mode == "linear" else None  # its weights fall over the overlap
    return setting.window, setting.starts(size), setting.mode, setting.sigma_scale, ramp


def by(sides: Sequence[int]) -> str:
    """Sides as text.

    >>> by((64, 64, 32))
    '64x64x32'
    """
    return "x".join(map(str, sides))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
