"""The HU scale of known inserts."""

import math

import numpy as np
import pytest
from small_volumes import nan_volume

from ctpa_vqgan.metrics.linearity import hu_linearity, insert_means


def test_inserts_give_slope_intercept_and_the_worst_insert():
    known = [-1000, -100, 0, 120, 900]
    labels = np.repeat(np.arange(6), 40)[None, None] * np.ones((4, 4, 1), np.int64)
    volume = np.array([555, *(0.98 * hu + 5 for hu in known)])[labels]
    means = insert_means(volume, labels)
    assert list(means) == [1, 2, 3, 4, 5]
    found = hu_linearity(list(means.values()), known)
    assert found == pytest.approx((0.98, 5, 0, 25), abs=1e-3)
    bent = hu_linearity([-1000, 0, 1006], [-1000, 0, 1000])
    assert bent == pytest.approx((1.003, 2, 2, 6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: insert_means(nan_volume(), np.ones((20, 20, 20))), r"inserts \[1\] hold NaN"),
        (lambda: insert_means(np.zeros((9, 9, 9)), np.zeros((9, 9, 9))), "no insert"),
        (lambda: insert_means(np.zeros((9, 9, 9)), np.full((9, 9, 9), 0.5)), "whole numbers"),
        (lambda: hu_linearity([1, 2], [0, 0]), "different known"),
        (lambda: hu_linearity([1, math.nan], [0, 1]), "finite"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
