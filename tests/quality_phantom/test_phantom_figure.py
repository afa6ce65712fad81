"""The picture of the phantoms."""

import json

import pytest
from PIL import Image

from ctpa_vqgan.report.phantom_figure import save_phantom_figure


def nulls(value):
    """NaN as a JSON file has it."""
    if isinstance(value, dict):
        return {key: nulls(part) for key, part in value.items()}
    if isinstance(value, list):
        return [nulls(part) for part in value]
    return None if isinstance(value, float) and value != value else value


def test_the_picture_is_1280_pixels_wide_and_small(blurred, scaled, tmp_path):
    path = save_phantom_figure(tmp_path / "new" / "phantoms.png", {"reconstruction": blurred, "decoded": scaled})
    with Image.open(path) as picture:
        assert picture.size[0] == 1280 and 800 < picture.size[1] < 1200
    assert path.stat().st_size < 500_000


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_measured_is_left_out_of_the_picture(grey, tmp_path):
    assert save_phantom_figure(tmp_path / "a.png", {"decoded": json.loads(json.dumps(nulls(grey)))}).is_file()


def test_another_answer_is_another_picture(blurred, scaled, tmp_path):
    a, b = (
        save_phantom_figure(tmp_path / f"{k}.png", {"reconstruction": found})
        for k, found in enumerate((blurred, scaled))
    )
    assert a.read_bytes() != b.read_bytes()


def test_no_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one version or more"):
        save_phantom_figure(tmp_path / "a.png", {})
