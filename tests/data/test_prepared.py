"""A prepared volume is the checked one, in a file that costs nothing to open."""

import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandSpatialCropSamplesd, SpatialCropd

from ctpa_vqgan.data import (
    is_prepared,
    load_volume,
    map_prepared,
    prepare_patch,
    prepare_volume,
    prepared_shape,
    save_like,
    write_prepared,
)
from ctpa_vqgan.data.prepared import HEADER_BYTES, MARK
from ctpa_vqgan.errors import BadVolume

SHAPE = (7, 5, 4)
AFFINE = np.array([[0.6, 0.0, -0.4, 12.5], [0.0, 0.7, 0.0, -3.25], [0.8, 0.0, 0.3, 100.0], [0.0, 0.0, 0.0, 1.0]])


def numbered(shape=SHAPE):
    """Every voxel says where it lies."""
    return np.arange(-1000, np.prod(shape) - 1000).astype(np.int16).reshape(shape)


@pytest.fixture
def path(tmp_path):
    return write_prepared(tmp_path / "a.nii", numbered(), AFFINE)


@pytest.fixture(scope="module")
def pair(phantom_folder, tmp_path_factory):
    """The same volume as raw file and prepared."""
    raw = phantom_folder / "phantom_00.nii.gz"
    image = nib.as_closest_canonical(nib.load(raw))
    path = tmp_path_factory.mktemp("prepared") / "phantom_00.nii"
    return raw, write_prepared(path, np.asarray(image.dataobj).astype(np.int16), image.affine)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_nibabel_reads_what_was_written(path):
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), numbered())
    assert image.get_data_dtype() == np.dtype("<i2")
    for matrix, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(matrix, AFFINE, atol=1e-5)
        assert code == 1, "coordinates of the scanner"
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_zooms(), (1.0, 0.7, 0.5), atol=1e-6)
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    assert path.stat().st_size == 352 + 2 * numbered().size


def test_x_is_fastest_in_the_file(path):
    voxels = np.fromfile(path, "<i2", offset=352)
    np.testing.assert_array_equal(voxels[: SHAPE[0]], numbered()[:, 0, 0])


@pytest.mark.parametrize(
    "turn", [np.ascontiguousarray, np.asfortranarray, lambda v: v[::-1, :, ::-1].copy()[::-1, :, ::-1]]
)
def test_strides_of_the_array_do_not_matter(path, tmp_path, turn):
    other = write_prepared(tmp_path / "b.nii", turn(numbered()), AFFINE)
    assert other.read_bytes() == path.read_bytes()


def test_writing_takes_the_memory_of_one_plane(tmp_path):
    voxels = np.zeros((64, 256, 256), np.int16)  # z fastest: the strides that are worst to write
    tracemalloc.start()
    write_prepared(tmp_path / "a.nii", voxels, AFFINE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * voxels[:, :, 0].nbytes + 2**16


def test_what_cannot_be_mapped_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.nii"):
        write_prepared(tmp_path / "a.nii.gz", numbered(), AFFINE)
    with pytest.raises(ValueError, match="expected \\[X, Y, Z\\] int16, found float32"):
        write_prepared(tmp_path / "a.nii", numbered().astype(np.float32), AFFINE)
    assert not list(tmp_path.iterdir())


# -- told from others --------------------------------------------------------------------------------------------------


def changed(field, value):
    def change(path):
        header = nib.load(path).header
        header[field] = value
        path.write_bytes(header.binaryblock + path.read_bytes()[348:])

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("descrip", b"ctpa_vqgan"),
        changed("datatype", 512),
        changed("scl_slope", 2),
        changed("scl_inter", -1024),
        changed("vox_offset", 416),
        changed("magic", b"ni1"),
        changed("dim", [4, 7, 5, 2, 2, 1, 1, 1]),
        changed("dim", [3, 7, 5, 0, 1, 1, 1, 1]),
        lambda path: path.write_bytes(path.read_bytes()[:340]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: nib.save(nib.Nifti1Image(numbered(), AFFINE), path),
    ],
)
def test_only_what_prepare_writes_is_prepared(path, change):
    assert is_prepared(path)
    change(path)
    assert not is_prepared(path)
    with pytest.raises(BadVolume) as error:
        map_prepared(path)
    assert error.value.rule == "unreadable"


def test_a_compressed_copy_is_not_prepared(path, tmp_path):
    nib.save(nib.load(path), tmp_path / "copy.nii.gz")
    assert not is_prepared(tmp_path / "copy.nii.gz")


@pytest.mark.parametrize("odd", ["", "no\0name", ["a.nii"], None, 3.5])
def test_asking_never_raises(odd):
    assert is_prepared(odd) is False


def test_asking_reads_the_header_alone(path):
    path.write_bytes(path.read_bytes()[:HEADER_BYTES])
    assert is_prepared(path)
    assert prepared_shape(path) == SHAPE
    assert MARK in path.read_bytes()


@pytest.mark.parametrize("size", [352, 353, 352 + 2 * 139, 352 + 2 * 140 + 1])
def test_a_file_cut_short_or_too_long_is_refused(path, size):
    content = path.read_bytes() + b"more"
    path.write_bytes(content[:size])
    with pytest.raises(
        BadVolume, match=rf"^{path}: \[payload\] .* found {size} bytes in the file instead of 632;"
    ) as error:
        load_volume_of(path)
    assert error.value.rule == "payload"


def load_volume_of(path):
    """The volume, or the error below those of MONAI."""
    try:
        return load_volume()({"image": str(path)})["image"]
    except RuntimeError as error:
        raise error.__cause__ from None


# -- mapped, not read --------------------------------------------------------------------------------------------------


def mapped_files(address):
    """Files under this address of the process."""
    rows = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [([int(end, 16) for end in row[0].split("-")], row[5:]) for row in rows]
    return [name[0] for (low, high), name in spans if low <= address < high and name and "/" in name[0]]


def test_the_map_has_the_order_of_the_file(path):
    voxels, affine = map_prepared(path)
    np.testing.assert_array_equal(voxels, numbered().transpose(2, 1, 0))
    assert voxels.flags.c_contiguous
    np.testing.assert_allclose(affine, AFFINE[:, [2, 1, 0, 3]], atol=1e-5)


def test_monais_loader_copies_nothing(path):
    volume = load_volume_of(path)
    assert isinstance(volume, MetaTensor)
    assert volume.shape == (1, *SHAPE)
    assert volume.dtype == torch.int16
    assert volume.stride()[1:] == (1, 7, 35), "x fastest, as in the file"
    assert mapped_files(volume.data_ptr()) == [str(path)]
    np.testing.assert_array_equal(volume.numpy()[0], numbered())


def test_a_crop_is_still_the_file(path):
    volume = load_volume_of(path)
    crop = SpatialCropd("image", roi_start=(1, 1, 1), roi_end=(3, 3, 3))({"image": volume})["image"]
    assert mapped_files(crop.data_ptr()) == [str(path)]


def test_a_patch_is_not(path):
    volume = load_volume_of(path)
    for flips in (False, True):
        patch = prepare_patch((-1000, 1000), flips)({"image": volume[:, 1:5, 1:5, :2]})["image"]
        assert type(patch) is torch.Tensor
        assert not mapped_files(patch.data_ptr())
        assert patch.untyped_storage().nbytes() == patch.nbytes


def test_writing_to_the_volume_leaves_the_file_alone(path):
    before = path.read_bytes()
    load_volume_of(path)[:] = 0
    assert path.read_bytes() == before


def test_a_patch_of_a_full_size_volume_takes_no_more_memory_than_itself(tmp_path):
    """A sparse file of 317 MB: its pages are zeros that were never written."""
    path = write_prepared(tmp_path / "a.nii", np.zeros((512, 512, 1), np.int16), np.eye(4))
    header = np.frombuffer(path.read_bytes()[:348], nib.nifti1.header_dtype).copy()
    header["dim"][0, 3] = 604
    with path.open("r+b") as file:
        file.write(header.tobytes())
        file.truncate(352 + 2 * 512 * 512 * 604)
    tracemalloc.start()
    volume = load_volume_of(path)
    patch = prepare_patch((-1000, 1000))({"image": volume[:, :64, :64, :64]})["image"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.shape == (1, 512, 512, 604)
    assert peak < 2 * patch.nbytes + 2**20


# -- the same as the raw file ------------------------------------------------------------------------------------------


def test_a_prepared_volume_equals_the_raw_one(pair):
    raw, prepared = map(load_volume_of, pair)
    assert torch.equal(raw.as_tensor(), prepared.as_tensor())
    assert raw.as_tensor().stride()[1:] == prepared.as_tensor().stride()[1:]
    torch.testing.assert_close(raw.affine, prepared.affine, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_patches_are_the_same_for_the_same_seed(pair, seed):
    crop = RandSpatialCropSamplesd(keys="image", roi_size=(20, 24, 16), num_samples=2)
    chain, patches = Compose([load_volume(), crop, prepare_patch((-1000, 1000))]), []
    places = Compose([load_volume(), crop])
    for path in pair:
        chain.set_random_state(seed)
        patches.append([patch["image"] for patch in chain({"image": str(path)})])
        places.set_random_state(seed)
        patches[-1] += [patch["image"].affine for patch in places({"image": str(path)})]
    for one, other in zip(*patches):
        torch.testing.assert_close(one, other, atol=1e-4 if one.dtype == torch.float64 else 0, rtol=0)


def test_a_reconstruction_lies_on_the_grid_of_the_prepared_file(pair, tmp_path):
    item = prepare_volume((-1000, 1000))({"image": str(pair[1])})
    save_like(item["hu"][0].numpy(), item["hu"].meta, tmp_path / "out.nii.gz")
    out, source = nib.load(tmp_path / "out.nii.gz"), nib.load(pair[1])
    np.testing.assert_array_equal(np.asarray(out.dataobj), np.asarray(source.dataobj))
    np.testing.assert_allclose(out.affine, source.affine, atol=1e-5)
