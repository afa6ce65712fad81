"""Label maps are found by name, and only taken on the grid of their volume."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.evaluation import LabelMaps

SHAPE = (6, 5, 4)
AFFINE = np.diag([0.7, 0.7, 2.5, 1.0])
VALUES = np.zeros(SHAPE, np.uint8)
VALUES[1:3, 1:4, 2] = 1
VALUES[4, 4, 3] = 7


def save(path, values=VALUES, affine=AFFINE):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_a_map_comes_with_the_names_of_its_values(tmp_path):
    values, names = LabelMaps(None).read(save(tmp_path / "a.nii.gz"), SHAPE, AFFINE)
    np.testing.assert_array_equal(values, VALUES)
    assert names == {"label_1": 1, "label_7": 7}
    chosen = LabelMaps(None, {"artery": [1, 7]}).read(tmp_path / "a.nii.gz", SHAPE, AFFINE).names
    assert chosen == {"artery": [1, 7]}


def test_another_orientation_of_the_same_grid_is_turned(tmp_path):
    image = nib.Nifti1Image(VALUES, AFFINE)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("LPS"))
    nib.save(turned, tmp_path / "a.nii.gz")
    assert not np.array_equal(turned.affine, AFFINE)
    np.testing.assert_array_equal(LabelMaps(None).read(tmp_path / "a.nii.gz", SHAPE, AFFINE).values, VALUES)


def test_maps_are_found_by_the_name_of_the_case(tmp_path, capsys):
    save(tmp_path / "labels/a.nii.gz")
    labels = LabelMaps(tmp_path / "labels")
    assert labels.find("a") == tmp_path / "labels/a.nii.gz"
    assert labels.find("b") is None
    assert LabelMaps(None).find("a") is None
    labels.check(["a", "b"])
    assert "label maps of 1 of 2 cases" in capsys.readouterr().err


def test_one_file_is_for_one_case(tmp_path):
    labels = LabelMaps(save(tmp_path / "mask.nii.gz"))
    labels.check(["a"])
    assert labels.find("a") == tmp_path / "mask.nii.gz"
    with pytest.raises(UserError, match="one file for 2 cases; give a folder"):
        labels.check(["a", "b"])


def test_a_folder_that_fits_no_case_is_told_before_work_begins(tmp_path):
    save(tmp_path / "labels/a_mask.nii.gz")
    with pytest.raises(UserError, match=r"holds no map of any case; call one a\.nii\.gz"):
        LabelMaps(tmp_path / "labels").check(["a", "b"])


def test_a_map_is_read_with_its_volume(tmp_path):
    labels = LabelMaps(save(tmp_path / "labels/a.nii.gz").parent)
    volume = MetaTensor(torch.zeros(1, *SHAPE), affine=AFFINE)
    item = {"case": "a", "hu": volume}
    assert labels(item) is item
    np.testing.assert_array_equal(labels.of("a").values, VALUES)
    assert labels.of("b") is None
    labels({"case": "b", "hu": volume})
    assert labels.of("a") is None and labels.of("b") is None


@pytest.mark.parametrize("names", [{"artery": "1"}, {"artery": [1, 0]}, {"artery": 1.5}])
def test_names_without_whole_numbers_are_refused(names):
    with pytest.raises(UserError, match="label_names: expected names with whole numbers above 0"):
        LabelMaps(None, names)


def test_a_path_that_is_not_there_is_told_at_once(tmp_path):
    with pytest.raises(UserError, match="labels: no such file or folder"):
        LabelMaps(tmp_path / "none")


shifted = AFFINE.copy()
shifted[0, 3] = 0.35


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (VALUES[:-1], AFFINE, r"grid of \(6, 5, 4\) voxels, found \(5, 5, 4\)"),
        (VALUES, shifted, "lies 0.35 mm beside it"),
        (VALUES, np.diag([0.7, 0.7, 2.4, 1.0]), "lies 0.30 mm beside it"),
        (VALUES * np.float32(0.5), AFFINE, "expected whole numbers below 32768"),
        (VALUES * 0, AFFINE, "found none but 0"),
    ],
)
def test_a_map_of_another_grid_or_kind_is_refused_by_name(tmp_path, values, affine, message):
    path = save(tmp_path / "a.nii.gz", values, affine)
    with pytest.raises(UserError, match=message) as caught:
        LabelMaps(None).read(path, SHAPE, AFFINE)
    assert str(path) in str(caught.value)


def test_names_of_absent_values_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected labels \[3\], found \[1, 7\]; set label_names"):
        LabelMaps(None, {"artery": 3}).read(save(tmp_path / "a.nii.gz"), SHAPE, AFFINE)


def test_a_file_that_is_no_map_is_refused_by_name(tmp_path):
    (tmp_path / "a.nii.gz").write_text("not an image")
    with pytest.raises(UserError, match=r"a\.nii\.gz: expected a label map"):
        LabelMaps(None).read(tmp_path / "a.nii.gz", SHAPE, AFFINE)
