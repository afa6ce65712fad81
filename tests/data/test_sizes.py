"""A training for volumes of one size does not begin in silence on others."""

import nibabel as nib
import numpy as np
import pytest

from ctpa_vqgan.data import find_cases, load_volume, patch_dataset, prepare_patch, prepare_volume
from ctpa_vqgan.data.patches import check_sizes
from ctpa_vqgan.data.sizes import check_size
from ctpa_vqgan.errors import UserError, user_error

SIZE = (48, 44, 40)  # of the phantoms


def test_another_size_is_refused_with_the_file_both_sizes_and_the_command():
    with pytest.raises(UserError) as error:
        check_size((512, 512, 604), (256, 256, 64), "ct.nii.gz")
    assert str(error.value) == (
        "ct.nii.gz: expected 256 x 256 x 64 voxels (volume_size), found 512 x 512 x 604; bring the volumes to that "
        "grid by python -m ctpa_vqgan prepare VOLUMES --size 256 256 64 --output DATA, or set volume_size=null"
    )


@pytest.mark.parametrize("volume_size", [None, SIZE, list(SIZE)])
def test_what_fits_passes(volume_size, phantom_folder):
    check_sizes(find_cases(phantom_folder), volume_size)
    item = prepare_volume((-1000, 1000), volume_size)({"image": str(phantom_folder / "phantom_00.nii.gz")})
    assert item["image"].shape == item["hu"].shape == (1, *SIZE)


def test_the_first_of_another_size_is_named_and_the_unreadable_are_passed_over(phantom_folder, tmp_path):
    image = nib.load(phantom_folder / "phantom_00.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(b"damaged")
    nib.save(image, tmp_path / "b.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, :-1], image.affine), tmp_path / "c.nii.gz")
    with pytest.raises(UserError, match=r"c\.nii\.gz: expected 48 x 44 x 40 voxels .*, found 48 x 44 x 39"):
        check_sizes(find_cases(tmp_path), SIZE)


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_patches_are_cut_from_volumes_of_that_size_alone(phantom_folder, sampling):
    chains = load_volume(), prepare_patch((-1000, 1000))
    cases, sides = find_cases(phantom_folder), ((16, 16, 16), (16, 16, 16), sampling)
    assert len(patch_dataset(cases, *chains, *sides, volume_size=SIZE).cases) == 3
    with pytest.raises(UserError, match=r"phantom_00\.nii\.gz: expected 32 x 32 x 16 voxels"):
        patch_dataset(cases, *chains, *sides, volume_size=(32, 32, 16))


def test_a_whole_volume_of_another_size_is_refused_when_it_is_read(phantom_folder):
    path = phantom_folder / "phantom_00.nii.gz"
    with pytest.raises(RuntimeError) as error:
        prepare_volume((-1000, 1000), (32, 32, 16))({"image": str(path)})
    assert str(user_error(error.value)).startswith(f"{path}: expected 32 x 32 x 16 voxels (volume_size), found")
