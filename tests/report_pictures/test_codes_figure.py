"""The picture of the codebook's use."""

import numpy as np
import pytest
from matplotlib.image import imread

from ctpa_vqgan.report import codes_figure
from ctpa_vqgan.report.codes_figure import save_codes_figure
from ctpa_vqgan.report.sheet import Sheet


@pytest.fixture
def told(monkeypatch):
    """What is written into the picture."""
    texts, text = [], Sheet.text
    monkeypatch.setattr(
        Sheet, "text", lambda self, *place, **style: (texts.append(place[2]), text(self, *place, **style))
    )
    return texts


def test_usage_and_perplexity_stand_in_the_picture(tmp_path, told):
    path = save_codes_figure(
        tmp_path / "new" / "codes.png", [8, 8, 8, 8, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0], "a $case$"
    )
    assert imread(path).shape[1] == 1400
    assert told[0] == "a $case$"
    assert told[1] == "all tokens: 4 of 8 codes used (50.0%), perplexity 4, the most frequent code has 25.0% of them"
    assert told[2] == "body tokens: 1 of 8 codes used (12.5%), perplexity 1, the most frequent code has 100.0% of them"


def test_a_volume_without_body_has_no_body_tokens(tmp_path, told):
    save_codes_figure(tmp_path / "codes.png", [5, 1], [0, 0])
    assert told[2] == "body tokens: none"


def test_every_code_that_occurs_is_in_one_bin_and_on_the_curve(tmp_path, monkeypatch):
    sheets, png = [], Sheet.png
    monkeypatch.setattr(codes_figure.Sheet, "png", lambda self: (sheets.append(self), png(self))[1])
    counts = np.random.default_rng(0).zipf(1.5, 500).clip(0, 4096) - 1
    save_codes_figure(tmp_path / "codes.png", counts, counts)
    ranks, spread = sheets[0].figure.axes
    curve = ranks.lines[1].get_ydata()
    assert len(curve) == (counts > 0).sum()
    assert curve.sum() == pytest.approx(1)
    assert (np.diff(curve) <= 0).all()
    assert sum(spread.patches[0].get_data().values) == (counts > 0).sum()
    for axes in (ranks, spread):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["all codes used evenly"], "the dashes"


def test_lists_of_two_codebooks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got 2 and 3"):
        save_codes_figure(tmp_path / "codes.png", [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="got 0 and 0"):
        save_codes_figure(tmp_path / "codes.png", [], [])
