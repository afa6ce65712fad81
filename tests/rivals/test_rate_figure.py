import math

import matplotlib.image
import pytest
from matplotlib.axes import Axes

from ctpa_vqgan.report.rate_figure import save_rate_figure
from ctpa_vqgan.report.sheet import Sheet


def row(name, kind, rate, psnr, mae):
    return {"name": name, "kind": kind, "bits_per_voxel": rate, "psnr": psnr, "body_mae_hu": mae}


AGAINST = [
    row("model $1", "model", 0.2, 36.0, 25.0),
    row("on 256 x 256 x 64", "baseline", 0.03, math.inf, 44.0),
    row("trilinear", "interpolation", 0.2, 26.0, 74.0),
    row("HEVC", "codec", 0.4, 45.0, 10.0),
    row("HEVC", "codec", 0.1, 39.0, 20.0),
    {"name": "JPEG 2000", "kind": "codec", "skipped": "imagecodecs is not installed"},
]


@pytest.fixture
def curves(monkeypatch):
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **style: drawn.append((x, y)) or plot(axes, x, y, **style))
    return drawn


def test_a_codec_is_a_curve_and_the_rest_are_points(tmp_path, curves):
    path = save_rate_figure(tmp_path / "new" / "rates.png", AGAINST, "case")
    assert curves == [
        ((0.2,), (36.0,)),
        ((0.2,), (26.0,)),
        ((0.1, 0.4), (39.0, 45.0)),
        ((0.2,), (25.0,)),
        ((0.03,), (44.0,)),
        ((0.2,), (74.0,)),
        ((0.1, 0.4), (20.0, 10.0)),
    ]
    assert matplotlib.image.imread(path).shape[1] == 1280


def test_what_is_missing_is_told_in_words_and_for_its_panel(tmp_path, monkeypatch):
    told, text = [], Sheet.text
    monkeypatch.setattr(Sheet, "text", lambda sheet, *place, **style: (told.append(place[2]), text(sheet, *place)))
    unknown = [row("on a small grid", "baseline", None, 30.0, 40.0), row("copy", "interpolation", 16.0, "inf", None)]
    save_rate_figure(tmp_path / "rates.png", [*AGAINST, *unknown])
    assert set(told) >= {
        "on 256 x 256 x 64 not in the left panel: PSNR infinite",
        "copy not in the left panel: PSNR infinite; not in the right panel: MAE in the body not measured",
        "on a small grid not shown: its bits per voxel are not known",
        "JPEG 2000 skipped: imagecodecs is not installed",
    }


def test_rows_as_they_stand_in_a_file_are_drawn_too(tmp_path, curves):
    save_rate_figure(tmp_path / "rates.png", [row("a", "model", None, 36.0, 25.0), row("b", "model", 0.2, "inf", 1.0)])
    assert curves == [((0.2,), (1.0,))]


def test_nothing_to_draw_is_an_empty_picture(tmp_path):
    assert save_rate_figure(tmp_path / "rates.png", []).stat().st_size > 1000
