"""The figure of tissues shows the bias where it is."""

import numpy as np
import pytest
from matplotlib.image import imread
from realistic import summary

from ctpa_vqgan.report.sheet import VERSION_COLOURS
from ctpa_vqgan.report.tissue_figure import save_tissue_figure


def rows(bias):
    return [{"case": "a", "reconstruction": {"tissues": {"fat": summary(9, bias, 5), "bone": summary(9, 0.0, 5)}}}]


def coloured(path):
    """Columns of the left panel in which the reconstruction's colour is."""
    left = imread(path)[:, :700, :3]
    colour = [int(VERSION_COLOURS["reconstruction"][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    found = (abs(left - np.array(colour)).sum(-1) < 0.05)[125:200]
    return np.nonzero(found.any(0))[0]


def test_a_bias_lies_on_its_side_of_the_goal(tmp_path):
    low, high = (coloured(save_tissue_figure(tmp_path / f"{bias}.png", rows(bias))).mean() for bias in (-20.0, 20.0))
    assert low < 260 < 600 < high


def test_the_figure_is_1280_wide_and_grows_with_the_tissues(tmp_path):
    image = imread(save_tissue_figure(tmp_path / "new" / "tissues.png", rows(1.0)))
    assert image.shape[1] == 1280
    without = [{"case": "b", "reconstruction": {"tissues": {"fat": summary(9, 1.0, 5)}}}]
    assert imread(save_tissue_figure(tmp_path / "one.png", without)).shape[0] == image.shape[0] - 75


def test_cases_without_tissues_are_refused(tmp_path):
    with pytest.raises(ValueError, match="error by tissue"):
        save_tissue_figure(tmp_path / "x.png", [{"case": "a", "psnr": 3.0}])
