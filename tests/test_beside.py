"""Several versions of a volume in one picture."""

import numpy as np
import pytest
from matplotlib.image import imread

from ctpa_vqgan.report import save_beside
from ctpa_vqgan.report.beside import GAP, LEFT, PANEL, TOP
from ctpa_vqgan.report.sheet import DPI


def flat(hu, size=(24, 24, 24)):
    return np.full(size, hu, np.int16)


def panel(picture, column):
    """The middle of the first panel (axial, lung window) of a column."""
    left = LEFT + column * (PANEL + GAP)
    where = [slice(int((start + PANEL / 4) * DPI), int((start + PANEL / 3) * DPI)) for start in (TOP, left)]
    return picture[where[0], where[1], :3]


def test_each_volume_has_a_column_in_the_order_given(tmp_path):
    path = save_beside(tmp_path / "new/b.png", {"air": flat(-1350), "lung": flat(-600), "bone": flat(700)}, (1, 1, 1))
    picture = imread(path)
    # the lung window goes from -1350 to 150 HU: black, the middle, white
    assert [panel(picture, column).mean() for column in range(3)] == pytest.approx([0, 0.5, 1], abs=0.01)


def test_a_picture_of_two_is_narrower_than_one_of_three(tmp_path):
    widths = []
    for number in (2, 3):
        volumes = {str(index): flat(0) for index in range(number)}
        widths.append(imread(save_beside(tmp_path / "b.png", volumes, (1, 1, 1))).shape[1])
    assert widths[1] - widths[0] == pytest.approx((PANEL + GAP) * DPI, abs=1)


def test_all_columns_show_the_slices_of_the_first_volume(tmp_path):
    first, second = flat(-1000), flat(-600)
    first[:, :, 3:6] = 40  # the body is here, so this is where all are cut
    second[:, :, 4] = 700
    picture = imread(save_beside(tmp_path / "b.png", {"first": first, "second": second}, (1, 1, 1)))
    assert panel(picture, 1).mean() == pytest.approx(1, abs=0.01)


def test_volumes_of_two_grids_are_not_drawn(tmp_path):
    with pytest.raises(ValueError, match="one shape"):
        save_beside(tmp_path / "b.png", {"a": flat(0), "b": flat(0, (24, 24, 8))}, (1, 1, 1))
    with pytest.raises(ValueError, match="one shape"):
        save_beside(tmp_path / "b.png", {}, (1, 1, 1))
    with pytest.raises(ValueError, match="spacing_mm"):
        save_beside(tmp_path / "b.png", {"a": flat(0)}, (1, 1, 0))
    assert not (tmp_path / "b.png").exists()
