"""The whole suite: identity, refusals, counts."""

import json
import math

import numpy as np
import pytest
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.quality_phantom import measure_phantoms, num_voxels
from ctpa_vqgan.quality_phantom.feed import Feed

COARSE = (1.4, 1.4, 3.0)

RATIOS = {
    "edges": ["mtf50_ratio"],
    "noise": ["sd_ratio", "nps_ratio", "mean_frequency_ratio"],
    "disks": ["recovery", "dprime_ratio"],
    "emboli": ["recovery"],
}


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.7), (0.75, 0.7, 2.5), (2.0, 2.0, 5.0)])
def test_a_network_that_changes_nothing_has_ratios_of_1(spacing):
    found = measure_phantoms(lambda volume: volume, spacing)
    for kind, keys in RATIOS.items():
        for entry in found[kind]:
            assert [entry[key] for key in keys] == pytest.approx([1] * len(keys), abs=1e-6)
            assert entry.get("original", 0) == entry.get("reconstruction", 0)
    line = found["linearity"]
    assert (line["slope"], line["intercept_hu"], line["max_deviation_hu"]) == pytest.approx((1, 0, 0), abs=1e-9)
    assert found["spacing_mm"] == list(spacing) and found["seconds"] > 0


def test_the_result_is_plain_json(grey):
    text = json.dumps(grey)
    assert json.loads(text).keys() == {"spacing_mm", "seconds", "edges", "noise", "linearity", "disks", "emboli"}


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_voxels_are_as_many_as_foretold(repeats):
    sizes = []

    def reconstruct(volume):
        assert volume.dtype == torch.float32 and all(side % 16 == 0 for side in volume.shape)
        sizes.append(volume.numel())
        return volume

    class Bar:
        total = done = 0

        def reset(self, total):
            self.total = total

        def update(self, steps):
            self.done += steps

    bar = Bar()
    measure_phantoms(reconstruct, COARSE, progress=bar, repeats=repeats)
    assert sum(sizes) == num_voxels(COARSE, repeats)
    assert bar.done == bar.total == len(sizes)


def test_the_default_amount_stays_below_12_million_voxels():
    assert num_voxels() < 12e6


def test_a_seed_gives_one_answer_and_another_seed_another():
    def answer(seed):
        found = measure_phantoms(lambda volume: torch.round(volume / 64) * 64, COARSE, seed)
        return {key: value for key, value in found.items() if key != "seconds"}

    first = json.dumps(answer(3))
    assert json.dumps(answer(3)) == first != json.dumps(answer(4))


def test_a_network_may_write_into_what_it_is_given():
    found = measure_phantoms(lambda volume: volume.mul_(0.5), COARSE)
    assert found["linearity"]["slope"] == pytest.approx(0.5)


def test_half_precision_and_arrays_are_taken():
    phantom = np.arange(-32.0, 32).reshape(4, 4, 4)
    for change in (lambda volume: volume.bfloat16(), lambda volume: volume.numpy().astype(np.float64)):
        seen = Feed(change)(phantom)
        assert seen.after.dtype == np.float32 and (seen.after == phantom).all()


def one_nan(volume):
    volume[3, 4, 5] = math.nan
    return volume


@pytest.mark.parametrize(
    ("reconstruct", "options", "message"),
    [
        (one_nan, {}, r"1 of \d+ voxels of a phantom NaN or infinite"),
        (lambda volume: volume[None], {}, r"gave back \(1, 96, 96, 16\) for a phantom of \(96, 96, 16\)"),
        (lambda volume: volume, {"spacing_mm": (0.7, 0.7)}, "spacing_mm of the phantoms"),
        (lambda volume: volume, {"spacing_mm": (2.1, 0.7, 0.7)}, "from 0.2 to"),
        (lambda volume: volume, {"repeats": 0}, "repeats must be 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(reconstruct, options, message):
    with pytest.raises(UserError, match=message) as refusal:
        measure_phantoms(reconstruct, **{"spacing_mm": COARSE, **options})
    assert "\n" not in str(refusal.value)
