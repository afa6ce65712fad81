"""How far a reconstruction's HU are off, tissue by tissue and display window by display window."""

# X Y Z voxels, C classes, G groups: a class outside (2 c) or inside (2 c + 1) the body, N voxels of one slab

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ctpa_vqgan.metrics.body import body_voxels
from ctpa_vqgan.metrics.error_counts import Errors, ErrorSummary
from ctpa_vqgan.metrics.slabs import check_volumes, finite_slab, read_slab, slabs
from ctpa_vqgan.windows import WINDOWS, Window

TISSUES_HU = {
    # from the first value up to, not including, the second; what lies in none of them is mostly the edge of two
    "air": (-math.inf, -950),  # with padding; the threshold of %LAA-950: Gevenois et al., AJRCCM 1996
    "lung": (-950, -500),  # aerated: Gattinoni et al., AJRCCM 2001 (-900..-500), down to where air ends
    "fat": (-190, -30),  # Kvist et al., Am J Clin Nutr 1988
    "soft_tissue": (-30, 150),  # as muscle, Mitsiopoulos et al., J Appl Physiol 1998; clots of about 60 HU too
    "contrast_blood": (180, 700),  # as ``prepare.statistics.BLOOD_HU``; spongy bone is as bright and counted here
    "bone": (700, math.inf),  # cortical, with metal and undiluted contrast
}
DISPLAY_WINDOWS = {**WINDOWS, "bone": Window(400, 1800)}


class TissueFidelity(NamedTuple):
    """Summaries by name: of ``whole`` and ``body``, of each tissue, and of each display window in both regions."""

    regions: dict[str, ErrorSummary]
    tissues: dict[str, ErrorSummary]
    windows: dict[str, ErrorSummary]
    body_windows: dict[str, ErrorSummary]


def tissue_fidelity(
    reconstruction: Any,
    original: Any,
    labels: Any = None,
    label_values: Mapping[str, int | Sequence[int]] | None = None,
    tissues: Mapping[str, tuple[float, float]] = TISSUES_HU,
    windows: Mapping[str, Sequence[float]] = DISPLAY_WINDOWS,
    hu_range: tuple[float, float] = (-1000.0, 1000.0),
) -> TissueFidelity:
    """Bias, MAE and 95 % limits of the error in HU by tissue, by display window, in the whole volume and in the body.

    As in ``volume_fidelity`` both volumes are first clipped to ``hu_range``, so scanner padding (-2048, -3024) is air
    of -1000 HU in both and ``regions["whole"]`` has that function's MAE, RMSE and PSNR. Noise in air is cut on one
    side by it, which leaves a small bias upwards. A window clips both further, to what its screen shows; **all**
    voxels of the region count then, also those shown black or white in both.

    A voxel's tissue is told by the original: its HU, or a label map. HU ranges are cut through noise: a voxel that
    noise lifted into the range comes back lower from whatever removes noise, which shows as a bias of narrow ranges
    and of their 95 % limits that no tissue has. A label map is free of that, and tells bone from blood.

    The body are the cubes of 4 x 4 x 4 voxels (less at the far borders) whose mean is above -950 HU: ``body_tokens``
    of factor 4, for volumes of any size. The table is body, the lumen of trachea and bullae is not.

    Exact for the error in float32, at bounded memory, on the CPU: the volumes are read in slabs of 32 slices. Whole
    numbers (both of integer type) are read once, into a histogram of every possible error. Fractions are read twice:
    65536 counts of the upper half of each float32 error tell in which interval a percentile lies, 65536 of the lower
    half which error it is.

    >>> found = tissue_fidelity(torch.full((8, 8, 8), 52), torch.full((8, 8, 8), 50))
    >>> found.tissues["soft_tissue"].bias_hu, found.tissues["fat"].num_voxels
    (2.0, 0)

    Args:
        reconstruction: [X, Y, Z] array, tensor or memory map of any real type, HU.
        original: [X, Y, Z], HU.
        labels: [X, Y, Z] whole numbers, on the original's grid; given, it takes the place of ``tissues``.
        label_values: which label or labels make a tissue, by its name.
        tissues: lowest HU and the HU where the next begins, by name; ``hu_range`` has no say in where a voxel belongs.
        windows: (level, width) in HU, by name.
        hu_range: lowest and highest HU that count. The peak of ``psnr`` is its width; of a window, the window's.

    Returns:
        A summary per region, tissue and window, see ``ErrorSummary``; all NaN for what has no voxels.

    Raises:
        ValueError: if the volumes are not of one shape, one holds a NaN or infinity, tissues overlap, a range or
            window is empty, labels are no whole numbers, or only one of ``labels`` and ``label_values`` is given.
    """
    if not hu_range[0] < hu_range[1]:
        raise ValueError(f"hu_range must be (lowest, highest), got {hu_range}")
    check_volumes(reconstruction, original)
    if (labels is None) != (label_values is None):
        raise ValueError("labels and label_values go together: the map, and which of its values make which tissue")
    if labels is not None:
        if tuple(labels.shape) != tuple(original.shape):
            raise ValueError(
                f"labels {tuple(labels.shape)} must lie on the original's grid {tuple(original.shape)}; "
                "resample the label map with nearest neighbours"
            )
        ranges = [
            (value, value + 1, name)
            for name, values in label_values.items()
            for value in ((values,) if np.ndim(values) == 0 else values)
        ]
    else:
        ranges = [(*limits, name) for name, limits in tissues.items()]
    classes = _Classes(list(tissues if labels is None else label_values), ranges)
    pair = _Pair(reconstruction, original, labels, classes)
    clips = {None: (*hu_range, hu_range[1] - hu_range[0])}
    for name, (level, width) in windows.items():
        clips[name] = (*_shown(name, level, width, hu_range), width)
    whole = pair.is_whole_numbers()
    errors = {name: Errors(*clip, 2 * classes.num, whole) for name, clip in clips.items()}

    everything, body = slice(None), slice(1, None, 2)
    groups = {name: slice(2 * c, 2 * c + 2) for c, name in enumerate(classes.names)}
    regions = {"whole": everything, "body": body}
    for x, y, group in pair:
        for error in errors.values():
            error.add(x, y, group)
    for name, error in errors.items():
        error.find_ranks([*regions.values(), *(groups.values() if name is None else ())])
    if any(error.wanted for error in errors.values()):
        for x, y, group in pair:
            for error in errors.values():
                error.refine(x, y, group)
    return TissueFidelity(
        regions={name: errors[None].summary(rows) for name, rows in regions.items()},
        tissues={name: errors[None].summary(rows) for name, rows in groups.items()},
        windows={name: errors[name].summary(everything) for name in windows},
        body_windows={name: errors[name].summary(body) for name in windows},
    )


def _shown(name: str, level: float, width: float, hu_range: tuple[float, float]) -> tuple[float, float]:
    low, high = max(level - width / 2, hu_range[0]), min(level + width / 2, hu_range[1])
    if not low < high:
        raise ValueError(f"window {name} (level {level}, width {width}) shows nothing of hu_range {hu_range}")
    return low, high


class _Classes:
    """Which class a value belongs to; the last class is everything else.

    Args:
        names: of the classes, in order.
        ranges: (lowest, first beyond, class name); several may share a name, none may overlap.
    """

    def __init__(self, names: Sequence[str], ranges: Sequence[tuple[float, float, str]]) -> None:
        self.names = names
        self.num = len(names) + 1
        ranges = sorted(ranges)
        for low, high, name in ranges:
            if not low < high:
                raise ValueError(f"range of {name} must be (lowest, first beyond), got {(low, high)}")
        for (_, high, first), (low, _, second) in itertools.pairwise(ranges):
            if high > low:
                raise ValueError(f"{first} and {second} overlap from {low} on; a voxel can be of one tissue only")
        # in turn the start of a range and of the gap behind it (empty where the next follows at once)
        self._borders = torch.tensor([border for *limits, _ in ranges for border in limits], dtype=torch.float32)
        members = [member for *_, name in ranges for member in (self.names.index(name), len(names))]
        self._members = torch.tensor([len(names), *members], dtype=torch.int32)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Class of each value, int32."""
        return self._members[torch.bucketize(values, self._borders, out_int32=True, right=True)]


class _Pair:
    """Both volumes slab by slab, as often as asked for: x, y [N] float32 and the group of each voxel, int32."""

    def __init__(self, reconstruction: Any, original: Any, labels: Any, classes: _Classes) -> None:
        self.reconstruction, self.original, self.labels, self.classes = reconstruction, original, labels, classes

    def is_whole_numbers(self) -> bool:
        firsts = (volume[..., :1] for volume in (self.reconstruction, self.original))  # scaled NIfTI: float when read
        return not any(
            first.is_floating_point() if isinstance(first, torch.Tensor) else np.asarray(first).dtype.kind == "f"
            for first in firsts
        )

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for start, stop in slabs(self.original.shape[-1]):
            x = finite_slab("reconstruction", self.reconstruction, start, stop, "cpu")
            y = finite_slab("original", self.original, start, stop, "cpu")
            marks = y if self.labels is None else read_slab(self.labels, start, stop, "cpu")
            if self.labels is not None and not torch.equal(marks, marks.round()):
                raise ValueError(
                    f"labels are no whole numbers in slices {start} to {stop - 1}; "
                    "resample the label map with nearest neighbours"
                )
            group = self.classes(marks).mul_(2).add_(body_voxels(y))
            yield x.view(-1), y.view(-1), group.view(-1)
