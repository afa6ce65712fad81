"""From file to HU in RAS orientation, and back on the grid of the file."""

import gzip

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged

from ctpa_vqgan.data import CTReader, case_name, save_like
from ctpa_vqgan.data.reader import volume_shape
from ctpa_vqgan.errors import BadVolume, UserError, user_error

SHAPE = (32, 34, 36)


def ct(shape=SHAPE, dtype=np.int16):
    """Every voxel differs from its neighbours, from air to bone."""
    return np.random.default_rng(0).permutation(np.linspace(-1000, 800, np.prod(shape))).astype(dtype).reshape(shape)


def write(path, array, affine=None, dtype=None):
    nib.save(nib.Nifti1Image(array, np.diag([0.7, 0.8, 1.5, 1]) if affine is None else affine, dtype=dtype), path)
    return path


def read(path):
    reader = CTReader()
    array, meta = reader.get_data(reader.read(path))
    return array.numpy(), meta


def refusal(path):
    with pytest.raises(BadVolume) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert ";" in message, "a way out follows what was found"
    return message


# -- what comes in -----------------------------------------------------------------------------------------------------


def test_voxels_are_hu_as_int16(tmp_path):
    array, _ = read(write(tmp_path / "ct.nii.gz", ct()))
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, ct())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_other_number_types_become_int16(tmp_path, dtype):
    array, _ = read(write(tmp_path / "ct.nii.gz", ct(dtype=dtype), dtype=dtype))
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, np.rint(ct(dtype=dtype)))


def test_fractions_are_rounded_and_extremes_clipped(tmp_path):
    volume = ct(dtype=np.float32)
    volume[0, 0, :4] = [0.4, 0.6, 1e6, -1e6]
    array, _ = read(write(tmp_path / "ct.nii.gz", volume))
    assert array[0, 0, :4].tolist() == [0, 1, 32767, -32768]


def patch_header(path, offset, values):
    """Set float32 fields of a NIfTI header in a file that nibabel would write otherwise."""
    data = bytearray(path.read_bytes())
    field = np.asarray(values, dtype="<f4").tobytes()
    data[offset : offset + len(field)] = field
    path.write_bytes(data)
    return path


def test_rescale_slope_and_intercept_are_applied(tmp_path):
    stored = (ct() + 1024) // 2
    path = patch_header(write(tmp_path / "ct.nii", stored), 112, [2.0, -1024.0])  # scl_slope, scl_inter
    array, _ = read(path)
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, 2 * stored - 1024)


def test_scanner_padding_stays_as_it_is(tmp_path):
    volume = ct()
    volume[0] = -2048
    array, _ = read(write(tmp_path / "ct.nii.gz", volume))
    assert (array[0] == -2048).all()


# -- orientation -------------------------------------------------------------------------------------------------------


def affine_of(axes, rng, oblique=0.0):
    """An affine whose voxel axes point to ``axes`` (such as "LPS"), tilted by at most ``oblique`` radians."""
    a, b, c = rng.uniform(-oblique, oblique, 3)
    tilt = np.array([[1, -a, b], [a, 1, -c], [-b, c, 1]])
    tilt = np.linalg.qr(tilt)[0]
    tilt *= np.sign(np.diag(tilt))
    turn = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), SHAPE)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.linalg.inv(turn) @ np.diag(rng.uniform(0.5, 3, 3))
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return affine


ORIENTATIONS = ["RAS", "LPS", "LAS", "RPI", "SPL", "ASR", "IRP", "PIL", "SAR", "ILA", "AIL", "PRS"]


@pytest.mark.parametrize("oblique", [0.0, 0.3])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_a_volume_comes_in_as_ras_and_goes_back_as_it_was(tmp_path, axes, oblique):
    rng = np.random.default_rng(ORIENTATIONS.index(axes))
    path = write(tmp_path / "ct.nii.gz", ct(), affine_of(axes, rng, oblique))
    source = nib.load(path)
    assert "".join(nib.aff2axcodes(source.affine)) == axes

    array, meta = read(path)
    assert nib.aff2axcodes(meta["affine"]) == ("R", "A", "S")
    back = nib.load(save_like(array, meta, tmp_path / "back.nii.gz"))

    assert back.shape == source.shape
    assert back.get_data_dtype() == np.int16
    np.testing.assert_allclose(back.affine, source.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(source.dataobj))


def test_turning_keeps_every_voxel_at_its_place_in_the_patient(tmp_path):
    affine = affine_of("PIL", np.random.default_rng(3), oblique=0.3)
    array, meta = read(write(tmp_path / "ct.nii.gz", ct(), affine))
    for index in [(0, 0, 0), (6, 8, 10), (2, 5, 3)]:
        place = nib.load(tmp_path / "ct.nii.gz").affine @ [*index, 1]
        turned = np.rint(np.linalg.inv(meta["affine"]) @ place)[:3].astype(int)
        assert array[tuple(turned)] == ct()[index]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPL"])
def test_x_is_fastest_in_memory_so_that_monai_does_not_transpose(tmp_path, axes):
    path = write(tmp_path / "ct.nii", ct(), affine_of(axes, np.random.default_rng(0)))
    image = LoadImaged(keys="image", reader=CTReader, dtype=None, image_only=True)({"image": str(path)})["image"]
    assert image.stride()[0] == 1 < image.stride()[1] < image.stride()[2]


def test_the_size_in_ras_comes_from_the_header(tmp_path):
    path = write(tmp_path / "ct.nii.gz", ct(), affine_of("SPL", np.random.default_rng(0)))
    array, _ = read(path)
    assert volume_shape(path) == array.shape == SHAPE[::-1]


def test_monai_loads_through_the_reader(tmp_path):
    path = write(tmp_path / "ct.nii.gz", ct(), affine_of("LPS", np.random.default_rng(0)))
    item = LoadImaged(keys="image", reader=CTReader, dtype=None, image_only=True)({"image": str(path)})
    assert item["image"].dtype.is_floating_point is False
    assert nib.aff2axcodes(np.asarray(item["image"].affine)) == ("R", "A", "S")
    back = save_like(np.asarray(item["image"]), item["image"].meta, tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(back).dataobj), ct())


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_itk_formats_show_the_same_patient_as_nifti(tmp_path, suffix):
    nifti = write(tmp_path / "ct.nii.gz", ct(), affine_of("LPS", np.random.default_rng(1)))
    itk.imwrite(itk.imread(str(nifti)), str(tmp_path / f"other{suffix}"))
    expected, expected_meta = read(nifti)
    array, meta = read(tmp_path / f"other{suffix}")
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_allclose(meta["affine"], expected_meta["affine"], atol=1e-4)
    assert volume_shape(tmp_path / f"other{suffix}") == SHAPE
    back = nib.load(save_like(array, meta, tmp_path / "back.nii.gz"))
    np.testing.assert_array_equal(np.asarray(back.dataobj), ct())
    np.testing.assert_allclose(back.affine, nib.load(nifti).affine, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/b.c.nii.gz", "b.c"), ("x.NII", "x"), ("scan.nrrd", "scan"), ("scan.mha", "scan"), ("other.txt", "other.txt")],
)
def test_a_case_is_named_by_its_file(path, name):
    assert case_name(path) == name


# -- what is refused: tests/data/test_corpus.py has the rest -----------------------------------------------------------


def test_a_missing_file_is_refused_by_name(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.nii.gz")


@pytest.mark.parametrize("name", ["text.nii.gz", "text.nii", "text.nrrd", "text.mha", "empty.nii.gz", "text.txt"])
def test_a_text_file_with_another_name_is_refused(tmp_path, name):
    content = b"" if name.startswith("empty") else b"these are not the voxels you are looking for"
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name == "text.nii.gz" else content)
    refusal(path)


def test_the_size_of_a_broken_header_is_not_guessed(tmp_path):
    affine = np.diag([0.7, 0.8, 1.5, 1])
    affine[0, 2] = 0.4
    with pytest.raises(BadVolume, match="affine-shear"):
        volume_shape(write(tmp_path / "tilted.nii.gz", ct(), affine))


def test_the_refusal_is_found_behind_monais_own_error(tmp_path):
    path = write(tmp_path / "mask.nii.gz", (ct() > 0).astype(np.uint8))
    with pytest.raises(Exception) as error:
        LoadImaged(keys="image", reader=CTReader)({"image": str(path)})
    assert str(user_error(error.value)).startswith(f"{path}: [hu-mask]")


# -- what goes out -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_rounded_and_clipped_to_int16(tmp_path):
    _, meta = read(write(tmp_path / "ct.nii.gz", ct()))
    volume = np.zeros(SHAPE, np.float32)
    volume[0, 0, :3] = [0.6, -1.4, 1e6]
    back = nib.load(save_like(volume, meta, tmp_path / "back.nii.gz"))
    assert back.get_data_dtype() == np.int16
    assert np.asarray(back.dataobj)[0, 0, :3].tolist() == [1, -1, 32767]
    assert back.header.get_xyzt_units()[0] == "mm"


def test_a_save_that_fails_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    array, meta = read(write(tmp_path / "ct.nii.gz", ct()))
    (tmp_path / "back.nii.gz").write_bytes(b"of an earlier run")

    def fail_halfway(image, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", fail_halfway)
    with pytest.raises(UserError, match="disk full"):
        save_like(array, meta, tmp_path / "back.nii.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.nii.gz", "ct.nii.gz"]
    assert (tmp_path / "back.nii.gz").read_bytes() == b"of an earlier run"
