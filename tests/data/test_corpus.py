"""Every kind of bad volume gets its verdict, and no legal one a false alarm."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from corpus import BAD, BLANK_ENDS, LEGAL, WARNED

from ctpa_vqgan.data.checks.rules import RULES
from ctpa_vqgan.data.volumes import read_volume
from ctpa_vqgan.errors import BadVolume

REAL_DATA = Path(__file__).parents[3] / "shared/data"
# what each file of the real data is; a new one needs its verdict here
REAL_VOLUMES = {
    "CIP-ct64.nrrd": None,
    "LIDC-0001.nii.gz": None,
    "TS-aorta_ct_cropped.nii.gz": None,
    "TS-example_ct.nii.gz": None,
    "TS-pulmonary_artery_mask.nii.gz": "hu-mask",
    "TS-pulmonary_ct_cropped.nii.gz": None,
    "VTKJS-LIDC2_8bit_notHU.mha": "hu-8bit",
}
NOT_OF_ONE_FILE = ("dicom-", "shared-voxels", "shrink")  # rules of a DICOM series, and of a data set


@pytest.fixture
def real_data():
    if not REAL_DATA.is_dir():
        pytest.skip("the real CTs are not part of the repository")
    return REAL_DATA


def written(kinds, name, folder):
    return kinds[name].write(folder, name.replace("/", "-"))


def refusal(path):
    with pytest.raises(BadVolume) as error:
        read_volume(path)
    return error.value


def warned(volume):
    return {finding.rule for finding in volume.warnings}


def assert_read_as_it_is(volume, voxels, affine):
    """The same HU at the same places, whatever the order of the axes."""
    turn = nib.io_orientation(volume.affine)
    ras_affine = volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.voxels.shape)
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(nib.apply_orientation(volume.voxels, turn), voxels)
    np.testing.assert_allclose(ras_affine, affine, atol=1e-4)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_a_bad_volume_is_refused_by_its_rule(tmp_path, name):
    assert refusal(written(BAD, name, tmp_path)).rule in BAD[name].rules


@pytest.mark.parametrize("name", BAD)
def test_a_refusal_is_one_line_that_helps(tmp_path, name):
    path = written(BAD, name, tmp_path)
    error = refusal(path)
    message = str(error)
    assert message.startswith(f"{path}: [{error.rule}] expected ")
    assert len(message.splitlines()) == 1
    assert error.path == str(path)
    assert error.found.strip(), "what was found"
    assert error.way_out.strip(), "what to do"
    assert message.endswith(f", found {error.found}; {error.way_out}")
    assert not RULES[error.rule].warns


def test_there_are_fifty_kinds_of_bad_nifti():
    assert sum(kind.suffix.startswith(".nii") for kind in BAD.values()) >= 50


def test_every_rule_has_a_kind_that_asks_for_it_alone():
    asked = {rule for kind in [*BAD.values(), *WARNED.values()] if len(kind.rules) == 1 for rule in kind.rules}
    assert asked <= set(RULES), "the corpus asks for rules that exist"
    assert {rule for rule in RULES if not rule.startswith(NOT_OF_ONE_FILE)} <= asked


def test_a_folder_without_volumes_is_refused_by_name(tmp_path):
    assert str(refusal(tmp_path)).startswith(f"{tmp_path}: ")


# -- what is accepted with a warning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WARNED)
def test_an_odd_volume_is_accepted_with_its_warning(tmp_path, name):
    volume = read_volume(written(WARNED, name, tmp_path))
    assert warned(volume) == WARNED[name].rules
    assert all(RULES[finding.rule].warns and finding.found.strip() for finding in volume.warnings)


@pytest.mark.parametrize("name", [name for name in WARNED if "patient-name" in WARNED[name].rules])
def test_a_warning_about_a_name_does_not_repeat_it(tmp_path, name):
    volume = read_volume(written(WARNED, name, tmp_path))
    said = " ".join(finding.found for finding in volume.warnings).lower()
    assert not [part for part in ("doe", "john", "ller", "rgen") if part in said]


# -- what is accepted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_volume_is_read_as_it_is_without_a_warning(tmp_path, name):
    volume = read_volume(written(LEGAL, name, tmp_path))
    assert_read_as_it_is(volume, *LEGAL[name].truth())
    assert volume.warnings == []


@pytest.mark.parametrize("name", BLANK_ENDS)
def test_a_scan_may_begin_and_end_in_air(tmp_path, name):
    volume = read_volume(written(BLANK_ENDS, name, tmp_path))
    assert_read_as_it_is(volume, *BLANK_ENDS[name].truth())


@pytest.mark.parametrize("name", REAL_VOLUMES)
def test_real_volumes_get_the_verdict_of_a_radiologist(real_data, name):
    if rule := REAL_VOLUMES[name]:
        assert refusal(real_data / name).rule == rule
    else:
        assert read_volume(real_data / name).warnings == []


def test_no_real_volume_is_left_out(real_data):
    suffixes = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
    assert {path.name for path in real_data.iterdir() if path.name.endswith(suffixes)} == set(REAL_VOLUMES)
