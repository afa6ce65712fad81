"""Pictures of a case the way a radiologist looks at it, and sheets of them that stay small."""

import io

import numpy as np
import pytest
from PIL import Image

from ctpa_vqgan.prepare.thumbnails import CASES_PER_SHEET, PAIR, SIDE, WARNED, save_thumbnails, thumbnail

AXIAL, CORONAL = np.s_[:, :SIDE], np.s_[:, -SIDE:]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def record(case="ct-0", warnings=()):
    return {"case": case, "shape": [512, 512, 604], "spacing_mm": [0.7, 0.7, 0.6], "warnings": list(warnings)}


def block():
    """Air with a body of 0 HU; the patient's right, front, head octant of it is bright."""
    voxels = np.full((64, 64, 64), -1000, np.int16)
    voxels[12:52, 12:52, 12:52] = 0
    voxels[32:52, 32:52, 32:52] = 240
    return voxels


def test_right_is_left_and_front_and_head_are_up():
    shown = pixels(thumbnail(block(), (1.0, 1.0, 1.0)))
    axial, coronal = shown[AXIAL], shown[CORONAL]
    quarter, far = 40, 88
    assert axial[quarter, quarter] == 255 > axial[quarter, far] == axial[far, quarter] == axial[far, far] > 0
    # the lung window is white from 150 HU on
    assert coronal[quarter, quarter] == 255 > coronal[quarter, far] == coronal[far, quarter] > 200


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.5), (1.0, 1.0, 0.5), (2.0, 1.0, 1.0)])
def test_a_cube_of_the_patient_is_a_square_of_the_picture(spacing):
    voxels = np.full([round(160 / mm) for mm in spacing], -1000, np.int16)
    voxels[tuple(slice(round(40 / mm), round(120 / mm)) for mm in spacing)] = 1000
    shown = pixels(thumbnail(voxels, spacing))
    for plane in (AXIAL, CORONAL):
        rows, columns = np.nonzero(shown[plane] > 127)
        assert np.ptp(rows) == pytest.approx(SIDE / 2, abs=3) and np.ptp(columns) == pytest.approx(SIDE / 2, abs=3)


def test_the_picture_is_small_and_does_not_depend_on_the_layout_in_memory(phantom):
    spacing = (7.5, 7.5, 9.0)
    png = thumbnail(phantom.volume, spacing)
    assert pixels(png).shape == PAIR[::-1] and len(png) < 30_000
    assert thumbnail(np.ascontiguousarray(phantom.volume), spacing) == png


def test_a_long_thin_volume_has_a_picture():
    assert pixels(thumbnail(np.zeros((32, 32, 8), np.int16), (0.1, 5.0, 0.3))).any()


def test_a_case_with_warnings_has_a_coloured_frame(tmp_path):
    png = thumbnail(block(), (1.0, 1.0, 1.0))
    cases = [(record("ct-0"), png), (record("ct-1", [{"rule": "thickness", "found": "8 mm"}]), png)]
    sheet = np.asarray(Image.open(save_thumbnails(tmp_path / "thumbnails.png", cases)[0]))
    colour = tuple(int(WARNED[i : i + 2], 16) for i in (1, 3, 5))
    marked = (sheet == colour).all(-1)[60:]  # below the head, whose legend has the colour too
    middle = sheet.shape[1] // 2
    assert not marked[:, :middle].any() and marked[:, middle:].any()


def test_many_cases_make_several_sheets_and_fewer_leave_none_behind(tmp_path):
    png = thumbnail(block(), (1.0, 1.0, 1.0))
    other = tmp_path / "thumbnails_of_mine.png"
    other.write_bytes(b"kept")
    path = tmp_path / "thumbnails.png"
    cases = [(record(f"ct-{i}"), png) for i in range(CASES_PER_SHEET + 1)]
    first, second = save_thumbnails(path, cases)
    assert (first.name, second.name) == ("thumbnails.png", "thumbnails_2.png")
    assert (
        Image.open(first).width == Image.open(second).width * 1 or Image.open(second).height < Image.open(first).height
    )
    assert save_thumbnails(path, cases[:-1]) == [path]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["thumbnails.png", "thumbnails_of_mine.png"]


def test_a_name_that_is_too_long_is_cut_and_not_drawn_over_its_neighbour(tmp_path):
    png = thumbnail(block(), (1.0, 1.0, 1.0))
    path = tmp_path / "thumbnails.png"
    short, long = (
        np.asarray(Image.open(save_thumbnails(path, [(record(name), png), (record("ct-1"), png)])[0]))
        for name in ("ct-0", "ct-" + "0" * 200)
    )
    middle = short.shape[1] // 2
    assert (short[:, middle:] == long[:, middle:]).all() and (short != long).any()


def test_no_cases_make_an_empty_sheet(tmp_path):
    assert [file.name for file in save_thumbnails(tmp_path / "thumbnails.png", [])] == ["thumbnails.png"]
