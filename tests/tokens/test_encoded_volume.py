"""An encoded volume holds together, and its file gives back all of it."""

import dataclasses
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.tokens import EncodedVolume, bound_error


@pytest.fixture
def full_volume(make_volume):
    """With latents, their statistics, and a residual."""
    rng = np.random.default_rng(2)
    original, decoded = rng.integers(-1024, 2000, (2, 30, 28, 17), np.int16)
    return make_volume(
        latents=rng.normal(size=(4, 8, 7, 5)).astype(np.float16),
        latent_mean=[0.1, 0.2, 0.3, 0.4],
        latent_std=np.ones(4),
        residual=bound_error(original, decoded, 5),
    )


def assert_equal(one, other):
    for field in dataclasses.fields(EncodedVolume):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert type(a) is type(b), field.name
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and np.array_equal(a, b), field.name
        else:
            assert a == b, field.name


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_gives_back_every_field(full_volume, make_volume, tmp_path):
    for volume in (make_volume(), full_volume):
        assert_equal(EncodedVolume.load(volume.save(tmp_path / "a.npz")), volume)


def test_the_same_volume_gives_the_same_bytes(full_volume, tmp_path):
    first = full_volume.save(tmp_path / "a.npz").read_bytes()
    second = EncodedVolume.load(tmp_path / "a.npz").save(tmp_path / "b.npz").read_bytes()
    assert first == second


def test_numpy_reads_it_without_pickle(full_volume, tmp_path):
    with np.load(full_volume.save(tmp_path / "a.npz"), allow_pickle=False) as members:
        assert members["shape"].tolist() == [30, 28, 17]
        assert {members[name].dtype.hasobject for name in members} == {False}


def test_a_large_ct_at_factor_4_with_8192_codes_takes_4_mb(make_volume, tmp_path):
    """13 bits a code, 4 020 224 bytes; random codes, so nothing can be gained on top."""
    shape = (512, 512, 604)
    codes = np.random.default_rng(0).integers(0, 8192, (128, 128, 151))
    volume = make_volume(codes=codes, shape=shape, original_shape=shape)
    path = volume.save(tmp_path / "a.npz")
    assert volume.summary()["packed_bytes"] == 4_020_224
    assert path.stat().st_size <= 4_100_000
    assert np.array_equal(EncodedVolume.load(path).codes, codes)


def test_codes_of_air_take_less(make_volume, tmp_path):
    noise = make_volume().save(tmp_path / "noise.npz").stat().st_size
    air = make_volume(codes=np.full((8, 7, 5), 4711)).save(tmp_path / "air.npz").stat().st_size
    assert air < noise - 300


def test_more_than_65536_codes_are_kept(make_volume, tmp_path):
    codes = np.random.default_rng(0).integers(0, 2**20, (8, 7, 5))
    volume = EncodedVolume.load(make_volume(codes=codes, num_embeddings=2**20).save(tmp_path / "a.npz"))
    assert volume.codes.dtype == np.uint32 and np.array_equal(volume.codes, codes)


def test_the_header_is_plain_and_tells_what_is_in_the_file(full_volume, make_volume, tmp_path):
    header = EncodedVolume.header(full_volume.save(tmp_path / "a.npz"))
    assert header["shape"] == [30, 28, 17] and header["num_embeddings"] == 8192 and header["residual_max_error_hu"] == 5
    assert header["has_latents"] and header["has_residual"] and "codes" not in header
    bare = EncodedVolume.header(make_volume().save(tmp_path / "b.npz"))
    assert not bare["has_latents"] and not bare["has_residual"]


def test_a_failed_save_leaves_the_older_file(make_volume, tmp_path, monkeypatch):
    path = make_volume().save(tmp_path / "a.npz")
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(UserError, match=r"a\.npz: could not be written \(No space left"):
        make_volume().save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"] and path.read_bytes() == before


def test_another_suffix_is_refused(make_volume, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        make_volume().save(tmp_path / "a.nii")


def test_reading_takes_neither_torch_nor_monai(make_volume, tmp_path):
    path = make_volume().save(tmp_path / "a.npz")
    program = (
        "import sys; from ctpa_vqgan.tokens import EncodedVolume; "
        "EncodedVolume.load(sys.argv[1], '0123456789abcdef' * 4); "
        "print(sorted({'torch', 'monai', 'nibabel'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# -- what follows ------------------------------------------------------------------------------------------------------


def test_padding_is_what_the_grid_has_beyond_the_volume(make_volume):
    assert make_volume().padding == (2, 0, 3)


def test_rates_are_those_of_a_hand_count(make_volume):
    codes = np.arange(8).repeat(35).reshape(8, 7, 5)  # eight codes, equally often: 3 bits
    volume = make_volume(codes=codes)
    assert volume.order0_entropy_bits() == 3
    assert volume.bits_per_voxel() == 280 * 13 / (30 * 28 * 17)
    assert volume.lzma_bytes() < 200
    assert volume.summary() == pytest.approx(
        {
            "num_codes": 280,
            "bits_per_code": 13,
            "packed_bytes": 455,
            "bits_per_voxel": 280 * 13 / (30 * 28 * 17),
            "compression_ratio": 16 * 30 * 28 * 17 / (280 * 13),
            "order0_entropy_bits": 3,
            "latent_bytes": 0,
            "residual_bytes": 0,
            "max_error_hu": None,
        }
    )


def random_grid(rng):
    """An oblique affine with its axes in any order and direction, and a shape."""
    turn, _ = np.linalg.qr(np.eye(3) + 0.25 * rng.normal(size=(3, 3)))
    turn *= np.sign(np.diag(turn))
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag(rng.uniform(0.5, 3, 3))
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine, tuple(int(side) for side in rng.integers(5, 30, 3))


@pytest.mark.parametrize("seed", range(20))
def test_a_volume_goes_back_on_the_grid_of_its_file(seed, make_volume, tmp_path):
    from ctpa_vqgan.data import save_like
    from ctpa_vqgan.data.volumes import to_ras

    rng = np.random.default_rng(seed)
    original_affine, original_shape = random_grid(rng)
    original = rng.integers(-1024, 3000, original_shape, np.int16)
    voxels, affine = to_ras(original, original_affine)
    grid = [-(-side // 4) for side in voxels.shape]
    volume = make_volume(
        codes=np.zeros(grid, int),
        shape=voxels.shape,
        affine=affine,
        original_shape=original_shape,
        original_affine=original_affine,
    )
    loaded = EncodedVolume.load(volume.save(tmp_path / "a.npz"))
    image = nib.load(save_like(voxels, loaded.meta, tmp_path / "back.nii"))
    assert np.array_equal(np.asarray(image.dataobj), original)
    assert np.allclose(image.affine, original_affine, atol=1e-4)  # NIfTI holds float32


# -- what does not fit -------------------------------------------------------------------------------------------------

FLIPPED = np.diag([-0.7, 0.7, 2.5, 1])
UNFIT = {
    "codes of another grid": ({"codes": np.zeros((8, 7, 4), int)}, r"codes must be \[h, w, d\] = \(8, 7, 5\)"),
    "a code beyond the codebook": ({"num_embeddings": 100}, "codes must lie in 0 to 99"),
    "a negative code": ({"codes": np.full((8, 7, 5), -1)}, "codes must lie in 0 to 8191, found -1"),
    "codes with fractions": ({"codes": np.zeros((8, 7, 5))}, "codes must be integers"),
    "an empty axis": ({"shape": (30, 28, 0)}, "shape must be three positive"),
    "two axes": ({"factor": (4, 4)}, "factor must be three positive"),
    "another original grid": ({"original_shape": (30, 17, 28)}, "one grid but for the order of axes"),
    "a place that moved": ({"original_affine": np.diag([0.7, 0.7, 2.5, 1])}, "one grid but for the order of axes"),
    "another spacing": ({"affine": np.diag([0.8, 0.7, 2.5, 1])}, "one grid but for the order of axes"),
    "a flip with its offset lost": ({"affine": np.eye(4), "original_affine": FLIPPED}, "one grid but for the order"),
    "an affine without volume": ({"affine": np.diag([0.7, 0, 2.5, 1])}, "affine must be"),
    "an infinite affine": ({"affine": np.diag([0.7, np.inf, 2.5, 1])}, "affine must be"),
    "an empty window": ({"hu_window": (1000, -1000)}, "hu_window must be"),
    "a network that is no fingerprint": ({"network": "best_run"}, "network must match"),
    "text in the version": ({"version": "1.0 of Jane Doe"}, "version must match"),
    "latents of another grid": ({"latents": np.zeros((4, 8, 7, 4), np.float16)}, r"latents must be \[E, 8, 7, 5\]"),
    "latents that overflowed": ({"latents": np.full((4, 8, 7, 5), np.inf, np.float16)}, "latents must be finite"),
    "latents of float64": ({"latents": np.zeros((4, 8, 7, 5))}, "latents must be float16 or float32"),
    "statistics of nothing": ({"latent_mean": [0.0], "latent_std": [1.0]}, "come together, and with latents"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_parts_that_do_not_fit_are_refused_by_name(name, make_volume):
    changes, message = UNFIT[name]
    with pytest.raises(ValueError, match=message):
        make_volume(**changes)


def test_statistics_fit_the_channels_and_scale(make_volume):
    latents = np.ones((4, 8, 7, 5), np.float32)
    with pytest.raises(ValueError, match="one value per channel"):
        make_volume(latents=latents, latent_mean=np.zeros(3), latent_std=np.ones(3))
    with pytest.raises(ValueError, match="latent_std positive"):
        make_volume(latents=latents, latent_mean=np.zeros(4), latent_std=np.zeros(4))
    with pytest.raises(ValueError, match="come together"):
        make_volume(latents=latents, latent_mean=np.zeros(4))


def test_a_residual_of_another_volume_is_refused(make_volume):
    small = np.zeros((5, 5, 5), np.int16)
    with pytest.raises(ValueError, match=r"residual must be of shape \(30, 28, 17\)"):
        make_volume(residual=bound_error(small, small, 0))


def test_codes_of_two_books_come_back_from_a_file(make_volume, tmp_path):
    """26 bits a code; the largest does not fit a signed number of 16, 24 or 26 bits."""
    codes = np.random.default_rng(0).integers(0, 2**26, (8, 7, 5))
    codes[0, 0, :3] = 0, 2**25, 2**26 - 1
    volume = EncodedVolume.load(make_volume(codes=codes, num_embeddings=2**26).save(tmp_path / "a.npz"))
    assert volume.codes.dtype == np.uint32 and np.array_equal(volume.codes, codes)
    assert volume.summary()["packed_bytes"] == 8 * 7 * 5 * 26 / 8
    assert volume.order0_entropy_bits() == pytest.approx(np.log2(280))
