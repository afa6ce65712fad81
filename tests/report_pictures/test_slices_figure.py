"""The picture of the error by axial slice."""

import math

import numpy as np
import pytest
from matplotlib.image import imread

from ctpa_vqgan.report import slices_figure
from ctpa_vqgan.report.sheet import Sheet
from ctpa_vqgan.report.slices_figure import save_slices_figure


@pytest.fixture
def sheets(monkeypatch):
    """The pages as they are before they become files."""
    drawn, png = [], Sheet.png
    monkeypatch.setattr(slices_figure.Sheet, "png", lambda self: (drawn.append(self), png(self))[1])
    return drawn


def errors(mae_hu):
    return {"mae_hu": list(mae_hu), "bias_hu": [-value / 2 if value is not None else None for value in mae_hu]}


def test_each_version_has_its_curves_over_slices_that_count_from_1(tmp_path, sheets):
    versions = {"reconstruction": errors([4, 8, None, 2]), "decoded": errors([5, math.nan, 9, 3])}
    path = save_slices_figure(tmp_path / "new" / "slices.png", versions, 2.5, title="a $case$")
    assert imread(path).shape[1] == 1400
    mae, bias = sheets[0].figure.axes
    first, second = mae.lines
    assert list(first.get_xdata()) == [1, 2, 3, 4]
    assert np.array_equal(first.get_ydata(), [4, 8, math.nan, 2], equal_nan=True)
    assert np.array_equal(second.get_ydata(), [5, math.nan, 9, 3], equal_nan=True)
    assert np.array_equal(bias.lines[0].get_ydata(), [-2, -4, math.nan, -1], equal_nan=True)
    texts = [text.get_text() for text in sheets[0].figure.texts]
    assert texts == ["a $case$", "reconstruction: MAE 4.7 HU, worst 8.0 HU in slice 2",
                     "decoded (dashed): MAE 5.7 HU, worst 9.0 HU in slice 3"]  # fmt: skip


def test_two_curves_that_coincide_are_both_seen(tmp_path, sheets):
    same = {name: errors([4, 8, 2]) for name in ("reconstruction", "decoded")}
    save_slices_figure(tmp_path / "slices.png", same, 1)
    below, above = sheets[0].figure.axes[0].lines
    assert below.get_color() != above.get_color()
    assert below.get_linestyle() == "-" and above.is_dashed()


def test_window_planes_are_marked_between_the_slices_and_only_inside_the_volume(tmp_path, sheets):
    save_slices_figure(
        tmp_path / "slices.png", {"reconstruction": errors([1] * 10)}, 1, window_planes=(0, 4, 8, 10, 16)
    )
    for axes in sheets[0].figure.axes:
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert marks == [4.5, 8.5]  # plane 4 lies between the fourth and the fifth slice
    assert any("2 planes" in text.get_text() for text in sheets[0].figure.texts)


def test_what_was_not_measured_is_said(tmp_path, sheets):
    save_slices_figure(tmp_path / "slices.png", {"decoded": errors([None, None])}, 1)
    assert sheets[0].figure.texts[1].get_text() == "decoded (dashed): not measured"


def test_versions_of_two_volumes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        save_slices_figure(tmp_path / "s.png", {"a": errors([1, 2]), "b": errors([1, 2, 3])}, 1)
    with pytest.raises(ValueError, match="no version"):
        save_slices_figure(tmp_path / "s.png", {}, 1)
    with pytest.raises(ValueError, match="spacing_z_mm"):
        save_slices_figure(tmp_path / "s.png", {"a": errors([1, 2])}, 0)
