"""The montage, looked at by pixels: its panels lie at known places."""

import numpy as np
import pytest
from matplotlib.image import imread

from ctpa_vqgan.report import save_montage
from ctpa_vqgan.report.montage import CLOSE_UP, ERROR, GAP, LEFT, PANEL, TOP, draw_montage
from ctpa_vqgan.report.sheet import DPI, PAPER

LUNG, MEDIASTINUM, PE = range(3)


def box(size, hu=40):
    volume = np.full(size, -1000, np.int16)
    volume[tuple(slice(side // 4, -(side // 4)) for side in size)] = hu
    return volume


def panel(picture, column, row, height=PANEL):
    """The inner half of a panel of the first plane, away from letters and notes; bytes."""
    left, top = LEFT + column * (PANEL + GAP), TOP + row * (height + GAP)
    where = [slice(int((start + side / 4) * DPI), int((start + side * 3 / 4) * DPI))
             for start, side in ((top, height), (left, PANEL))]  # fmt: skip
    return picture[where[0], where[1]].astype(np.float64)


def drawn(original, reconstruction, spacing_mm=(1, 1, 1), **names):
    return draw_montage(original, reconstruction, spacing_mm, **names).pixels(1800)


def test_no_error_has_the_colour_of_the_page():
    picture = drawn(box((40, 40, 40)), box((40, 40, 40)))
    page = [int(PAPER[i : i + 2], 16) for i in (1, 3, 5)]
    for row in (0, 1):  # the plane, and its close-up
        assert np.abs(panel(picture, ERROR, row) - page).max() <= 1


def test_too_bright_is_red_too_dark_is_blue_and_200_hu_is_the_end_of_the_scale():
    strips = np.repeat([300, 200, 100, -100], 10)[:, None, None]  # the picture has the first on its right
    picture = drawn(np.zeros((40, 40, 40)), np.broadcast_to(strips, (40, 40, 40)))
    row, left = int((TOP + 0.75 * PANEL) * DPI), LEFT + ERROR * (PANEL + GAP)
    dark, bright, end, beyond = (
        picture[row, int((left + PANEL * (i + 0.5) / 4) * DPI)].astype(float) for i in range(4)
    )
    assert bright[0] > 2 * bright[2]
    assert dark[2] > 2 * dark[0]
    assert end == pytest.approx(beyond)
    assert end.sum() > 1.5 * bright.sum()


def test_windows_are_lung_mediastinum_and_pe_with_the_original_above_the_reconstruction():
    flat = [np.full((24, 24, 24), hu, np.int16) for hu in (-160, 140)]
    picture = drawn(*flat)
    # W1500 L-600, W400 L40, W700 L100: black is 0, white 255
    expected = {LUNG: (1190 / 1500, 1490 / 1500), MEDIASTINUM: (0, 300 / 400), PE: (90 / 700, 390 / 700)}
    for column, grey in expected.items():
        for row in (0, 1):
            values = panel(picture, column, row)
            values = values[values.max(-1) - values.min(-1) < 8]  # without the frame of the close-up
            assert np.median(values) == pytest.approx(255 * grey[row], abs=2)
    assert panel(picture, CLOSE_UP, 1).mean() == pytest.approx(255 * 390 / 700, abs=2)


def test_the_planes_and_the_close_up_depend_on_the_original_alone():
    rng = np.random.default_rng(0)
    original = box((60, 60, 40))
    original[20:40, 10:30, 10:30] = 350  # the vessel
    first, second = (drawn(original, rng.integers(-1000, 1000, original.shape, np.int16)) for _ in range(2))
    for column in (LUNG, MEDIASTINUM, PE, CLOSE_UP):
        assert (panel(first, column, 0) == panel(second, column, 0)).all()
    assert (panel(first, LUNG, 1) != panel(second, LUNG, 1)).any()


def test_the_close_up_shows_the_vessel_and_not_the_centre():
    original = np.full((100, 100, 60), -1000, np.int16)
    original[20:50, 20:50, 10:40] = 450  # white in the embolism window
    picture = drawn(original, original, (2, 2, 2))
    assert panel(picture, CLOSE_UP, 0).mean() > 200
    assert panel(picture, PE, 0).mean() < 100


def test_proportions_are_those_of_the_patient():
    heights = [draw_montage(box((40, 40, 40)), box((40, 40, 40)), (1, 1, mm)).height for mm in (1, 0.5)]
    assert heights[0] - heights[1] == pytest.approx(4 * PANEL / 2)  # coronal, sagittal: half a panel less


def test_the_file_is_1800_pixels_wide_and_its_texts_are_as_given(tmp_path):
    volume = box((40, 40, 40))
    path = save_montage(tmp_path / "new" / "m.png", volume, volume, (1, 1, 0.5), "case $1_2$", name="decoded $x$")
    assert imread(path).shape[1] == 1800
    texts = [text.get_text() for text in draw_montage(volume, volume, (1, 1, 1), name="decoded").figure.texts]
    assert "axial\ndecoded" in texts
    assert any("decoded - original" in text for text in texts)
    assert not any("reconstruction" in text for text in texts)


def test_the_note_tells_mae_and_bias_of_the_plane_within_the_hu_range():
    volume = np.full((24, 24, 24), 1500, np.int16)
    texts = [text.get_text() for text in draw_montage(volume, volume - 510, (1, 1, 1)).figure.texts]
    assert texts.count("MAE 10.0 HU, bias -10.0 HU") == 3  # 990 and, clipped, 1000
    assert texts.count("close-up") == 3, "the panels below show its error"


@pytest.mark.parametrize("size", [(8, 6, 4), (1, 1, 1), (64, 4, 64)])
def test_a_small_thin_volume_is_drawn(size):
    assert drawn(np.full(size, 40, np.int16), np.full(size, 40, np.int16), (0.7, 0.7, 5)).std() > 10


def test_volumes_of_two_grids_are_not_drawn(tmp_path):
    with pytest.raises(ValueError, match="one shape"):
        save_montage(tmp_path / "m.png", box((8, 8, 8)), box((8, 8, 4)), (1, 1, 1))
    with pytest.raises(ValueError, match="spacing_mm"):
        save_montage(tmp_path / "m.png", box((8, 8, 8)), box((8, 8, 8)), (1, 1, 0))
    assert not (tmp_path / "m.png").exists()
