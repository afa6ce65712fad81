"""Every voxel is within the bound, or there is no volume."""

import numpy as np
import pytest

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.tokens import Residual, apply_residual, bound_error
from ctpa_vqgan.tokens.steps import compress, decompress, from_planes, to_planes

BOUNDS = [0, 1, 2, 5, 17, 50, 32767]


def largest_error(original, bounded):
    return int(np.abs(original.astype(np.int64) - bounded).max())


def scans(rng, shape):
    """What a scanner gives, the ends of int16, and noise over all of it."""
    body = rng.normal(-300, 500, shape).clip(-1024, 3071).astype(np.int16)
    padded = body.copy()
    padded[:3], padded[-2:] = -2048, -3024
    yield padded, (np.clip(padded, -1000, 1000) + rng.integers(-60, 60, shape)).astype(np.int16)
    yield rng.choice([-32768, 32767, 0], shape).astype(np.int16), rng.choice([-32768, 32767], shape).astype(np.int16)
    yield tuple(rng.integers(-32768, 32768, (2, *shape)).astype(np.int16))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("depth", [1, 16, 33])
def test_no_voxel_is_further_off_than_the_bound(bound, depth):
    for original, decoded in scans(np.random.default_rng(depth), (11, 7, depth)):
        bounded = apply_residual(decoded, bound_error(original, decoded, bound))
        assert bounded.dtype == np.int16 and largest_error(original, bounded) <= bound


def test_a_bound_of_0_restores_the_voxels():
    for original, decoded in scans(np.random.default_rng(3), (9, 8, 20)):
        assert np.array_equal(apply_residual(decoded, bound_error(original, decoded, 0)), original)


def test_a_known_voxel_moves_by_whole_steps():
    """Off by 12 with a bound of 2: two steps of 5, and 2 remain."""
    original, decoded = (np.full((1, 1, 1), hu, np.int16) for hu in (112, 100))
    assert apply_residual(decoded, bound_error(original, decoded, 2)).item() == 110


@pytest.mark.parametrize("bound", [0, 5, 20])
def test_the_bound_holds_on_a_real_ct(bound, real_ct):
    """One slice in sixteen, decoded by means of 4 x 4 pixels; ``benchmarks/residual.py`` takes all of them."""
    original = np.asfortranarray(real_ct[..., ::16])
    assert original.min() == -2048 and original.max() > 1000  # outside the window on both sides
    means = np.clip(original, -1000, 1000).reshape(128, 4, 128, 4, -1).mean((1, 3), dtype=np.float32)
    decoded = np.rint(means).astype(np.int16).repeat(4, 0).repeat(4, 1)
    residual = bound_error(original, decoded, bound)
    assert largest_error(original, apply_residual(decoded, residual)) == bound
    assert residual.nbytes < original.nbytes * {0: 0.5, 5: 0.3, 20: 0.2}[bound]


# -- the promise, kept by refusing -------------------------------------------------------------------------------------


def test_a_decoder_that_gives_one_other_voxel_is_refused():
    rng = np.random.default_rng(0)
    original, decoded = rng.integers(-1000, 1000, (2, 12, 10, 40), np.int16)
    residual = bound_error(original, decoded, 5)
    decoded[3, 4, 39] += 1
    with pytest.raises(
        UserError, match=r"case\.npz: expected a volume with the SHA-256 .*; decode on the kind of device"
    ):
        apply_residual(decoded, residual, name="case.npz")


def test_a_damaged_stream_is_refused():
    volume = np.zeros((4, 4, 4), np.int16)
    sound = bound_error(volume, volume, 0)
    longer = compress(np.zeros((4, 4, 5), np.int16))
    for stream in (sound.slabs[0][:-5], b"x" + sound.slabs[0][1:], longer, b""):
        damaged = Residual(0, (4, 4, 4), (stream,), sound.sha256)
        with pytest.raises(UserError, match="case: a residual that cannot be read"):
            apply_residual(volume, damaged, name="case")


@pytest.mark.parametrize("bound", [-1, 32768, 2.5, True, float("nan")])
def test_a_bound_is_a_whole_number_of_hu(bound):
    volume = np.zeros((4, 4, 4), np.int16)
    with pytest.raises(ValueError):
        bound_error(volume, volume, bound)


def test_volumes_of_another_type_or_shape_are_refused():
    volume = np.zeros((4, 4, 4), np.int16)
    for other in (volume.astype(np.float32), volume[:2], volume[0], volume.astype(">i2")):
        with pytest.raises(ValueError, match=r"expected \[X, Y, Z\] int16 of one shape"):
            bound_error(volume, other, 5)
    residual = bound_error(volume, volume, 5)
    with pytest.raises(ValueError, match=r"decoded must be of shape \(4, 4, 4\)"):
        apply_residual(volume[:2], residual)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_maps_go_in_and_out(tmp_path):
    rng = np.random.default_rng(0)
    maps = []
    for name in ("original", "decoded"):
        volume = np.memmap(tmp_path / name, np.int16, "w+", shape=(16, 12, 50), order="F")
        volume[:] = rng.integers(-1000, 1000, volume.shape)
        maps.append(volume)
    original, decoded = maps
    residual = bound_error(original, decoded, 3)
    # the layout in memory has no influence
    assert residual == bound_error(np.ascontiguousarray(original), np.ascontiguousarray(decoded), 3)
    bounded = apply_residual(decoded, residual, out=decoded)
    assert bounded is decoded and largest_error(original, decoded) <= 3


def test_every_step_survives_the_planes():
    steps = np.arange(-32768, 32768).astype(np.int16).reshape(64, 32, 32, order="F")
    assert np.array_equal(from_planes(to_planes(steps), steps.shape), steps)
    assert np.array_equal(decompress(compress(steps), steps.shape), steps)
    assert list(to_planes(steps[:3, 0, 0] + np.int16(32767))) == [1, 0, 2, 0, 0, 0]  # -1, 0, 1
