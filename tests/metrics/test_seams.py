"""The seam index against planted steps, noise and smooth errors; the shift test against biases known in advance."""

import math

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from ctpa_vqgan.data.phantom import make_phantom
from ctpa_vqgan.metrics import seam_index, shift_sd, window_planes

SIZE = (96, 96, 96)
PLANES = window_planes(SIZE, (48, 48, 48), (36, 36, 36))  # 36, 48 and 84 on every axis
WIDE = (-3000.0, 3000.0)  # so that air does not cut the noise in half


@pytest.fixture(scope="module")
def chest():
    return torch.from_numpy(make_phantom(SIZE).volume.copy()).float()


def noise(seed, size=SIZE):
    return 30 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def step(axis, plane, hu=5.0):
    error = torch.zeros(SIZE)
    error.narrow(axis, plane, SIZE[axis] - plane).fill_(hu)
    return error


def places(seams):
    return [(plane.axis, plane.plane) for plane in seams.found]


@pytest.mark.parametrize(("overlap", "roi_size"), [(0.25, (48, 40, 32)), (0.5, (32, 32, 16)), (0.0, (64, 32, 24))])
def test_window_planes_are_where_the_inferer_cuts(overlap, roi_size):
    size, starts = (96, 70, 61), []

    def note(window):  # window (B, 1, ...) of voxel numbers
        starts.extend(int(w.flatten()[0]) for w in window)
        return window

    numbers = torch.arange(math.prod(size), dtype=torch.float64).reshape(1, 1, *size)
    SlidingWindowInferer(roi_size, overlap=overlap)(numbers, note)
    corners = np.stack(np.unravel_index(starts, size), axis=1)
    expected = [
        sorted({int(p) for c in corners[:, axis] for p in (c, c + roi_size[axis]) if 0 < p < size[axis]})
        for axis in range(3)
    ]
    stride = [int(r * (1 - overlap)) for r in roi_size]
    assert [list(planes) for planes in window_planes(size, roi_size, stride)] == expected


def test_a_volume_of_one_window_has_no_window_planes():
    assert window_planes((30, 48, 10), (48, 48, 48), (36, 36, 36)) == ((), (), ())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("plane", [36, 48, 84])
def test_a_step_of_5_hu_in_noise_of_30_hu_is_found_and_measured(chest, axis, plane):
    seams = seam_index(chest + noise(axis) + step(axis, plane), chest, PLANES, WIDE)
    assert places(seams) == [(axis, plane)]
    assert seams.found[0].hu == pytest.approx(5, abs=1.5)  # three standard errors of one plane of 96 x 96 voxels


def test_over_many_noises_the_step_is_measured_without_bias():
    found = [seam_index(noise(seed) + step(2, 48), torch.zeros(SIZE), PLANES) for seed in range(12)]
    measured = [seams.found[0].hu for seams in found]
    assert np.sum(np.abs(np.array(measured) - 5) <= 1) >= 11  # within 20 %, which is two standard errors
    assert np.mean(measured) == pytest.approx(5, abs=0.45)  # three standard errors: one is 0.5 / sqrt(12)


def test_without_noise_a_step_is_exact_and_the_axis_is_the_root_mean_square_of_its_planes(chest):
    seams = seam_index(chest + step(1, 48, -5.0), chest, PLANES, WIDE)
    assert seams.found[0].hu == pytest.approx(5, rel=1e-4)
    assert seams.axis_hu == pytest.approx((0, 5 / math.sqrt(3), 0), abs=1e-3)
    assert seams.hu == pytest.approx(5 / 3, rel=1e-4)  # 25 on one of nine planes


def test_a_step_on_a_slope_is_measured_without_the_slope():
    slope = 2.0 * torch.arange(96.0)[:, None, None].expand(SIZE)
    seams = seam_index(step(0, 48) + slope, torch.zeros(SIZE), PLANES)
    assert places(seams) == [(0, 48)]
    assert seams.found[0].hu == pytest.approx(5, rel=1e-3)


def test_steps_of_both_signs_do_not_cancel():
    error = step(1, 48)
    error[48:] *= -1  # a checkerboard: 5 HU on axis 1 everywhere, 10 HU on half of axis 0
    seams = seam_index(error + noise(0), torch.zeros(SIZE), PLANES)
    assert places(seams) == [(0, 48), (1, 48)]
    assert [plane.hu for plane in seams.found] == pytest.approx([math.sqrt(50), 5], rel=0.2)


@pytest.mark.parametrize("seed", range(6))
def test_no_seam_is_reported_in_noise(chest, seed):
    seams = seam_index(chest + noise(seed), chest, PLANES, WIDE)
    assert seams.found == ()
    assert max(abs(z) for z in seams.axis_z) < 4
    assert seams.ratio == pytest.approx((1, 1, 1), abs=0.02)


@pytest.mark.parametrize("wavelength", [10, 20, 60, 200])
@pytest.mark.parametrize("phase", [0.0, 1.0])
def test_no_seam_is_reported_in_smooth_errors(wavelength, phase):
    x, y, z = torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")
    wave = 30 * sum(torch.sin(2 * math.pi * n / wavelength + phase) for n in (x, y, z)) + 2.0 * x
    assert seam_index(wave, torch.zeros(SIZE), PLANES).found == ()


def test_no_seam_is_reported_where_edges_are_blurred(chest):
    blurred = torch.nn.functional.avg_pool3d(chest[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    assert seam_index(blurred, chest, PLANES, WIDE).found == ()


@pytest.mark.parametrize(("plane", "hu"), [(44, 5), (45, 50), (46, 5), (47, 50), (49, 5), (50, 50), (51, 5), (60, 50)])
def test_a_step_elsewhere_is_not_put_down_to_the_windows(plane, hu):
    for error in (step(0, plane, hu), step(0, plane, hu) + noise(plane)):
        assert seam_index(error, torch.zeros(SIZE), PLANES).found == ()


def test_a_step_elsewhere_does_not_hide_a_seam():
    seams = seam_index(step(0, 44, 20.0) + step(0, 48) + noise(3), torch.zeros(SIZE), PLANES)
    assert places(seams) == [(0, 48)]


def test_an_identical_reconstruction_has_a_seam_index_of_zero(chest):
    seams = seam_index(chest, chest, PLANES)
    assert (seams.hu, seams.axis_hu, seams.axis_z, seams.ratio) == (0, (0, 0, 0), (0, 0, 0), (1, 1, 1))
    assert seams.found == ()


def test_the_ratio_is_the_mean_absolute_jump_on_window_planes_over_that_nearby():
    error = torch.zeros(40, 32, 32)
    error[1::2] = 1  # every plane of axis 0 jumps by 1
    error[20] = 4  # a jump of 3 on plane 20, and of 3 on the plane beside it, which counts for neither
    assert seam_index(error, torch.zeros_like(error), ((20,), (), ())).ratio[0] == pytest.approx(3)


def test_slabs_and_sides_that_are_no_multiple_of_the_block_change_nothing(monkeypatch):
    error = noise(1, (45, 37, 71))
    error[..., 32:] += 8
    planes = ((20,), (18,), (32, 64))  # on axis 2 the slabs' own borders
    found = seam_index(error, torch.zeros_like(error), planes)
    monkeypatch.setattr("ctpa_vqgan.metrics.seams.slabs", lambda num_slices: [(0, num_slices)])
    whole = seam_index(error, torch.zeros_like(error), planes)
    assert [(p.hu, p.z) for p in found.planes] == [pytest.approx((p.hu, p.z), rel=1e-5) for p in whole.planes]
    assert found.ratio == pytest.approx(whole.ratio, rel=1e-6)


def test_axes_are_treated_alike():
    error = noise(2, (40, 48, 56))
    planes = ((20,), (24,), (28,))
    found = seam_index(error, torch.zeros_like(error), planes)
    turned = seam_index(error.permute(2, 0, 1), torch.zeros(56, 40, 48), (planes[2], planes[0], planes[1]))
    assert [p.hu for p in turned.planes] == pytest.approx([found.planes[i].hu for i in (2, 0, 1)], rel=1e-5)


def test_where_nothing_can_be_compared_the_answer_is_nan():
    seams = seam_index(torch.zeros(12, 12, 1), torch.zeros(12, 12, 1), (range(2, 12, 3), (6, 99), ()))
    assert math.isnan(seams.axis_hu[0])  # every other plane is next to a window plane
    assert math.isnan(seams.axis_hu[2])
    assert [plane.plane for plane in seams.planes if plane.axis == 1] == [6]  # 99 lies beyond the volume
    assert seams.hu == 0
    assert seams.found == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_voxel_that_is_no_number_is_refused(bad):
    volume = torch.zeros(8, 8, 40)
    volume[1, 1, 35] = bad
    with pytest.raises(ValueError, match=r"reconstruction .* slices 32 to 39"):
        seam_index(volume, torch.zeros(8, 8, 40), ((4,), (), ()))


def test_senseless_arguments_are_refused():
    volume = torch.zeros(8, 8, 8)
    with pytest.raises(ValueError, match="three lists"):
        seam_index(volume, volume, ((4,), ()))
    with pytest.raises(ValueError, match="hu_range"):
        seam_index(volume, volume, ((4,), (), ()), (1, 0))
    with pytest.raises(ValueError, match="stride"):
        window_planes((8, 8, 8), (4, 4, 4), (0, 4, 4))
    with pytest.raises(ValueError, match="at least two"):
        shift_sd(lambda box: box, volume, [(0, 0, 0)])
    with pytest.raises(ValueError, match="keep the shape"):
        shift_sd(lambda box: box[1:], volume, [(0, 0, 0), (1, 0, 0)])


def test_an_exact_tokenizer_does_not_depend_on_the_shift(chest):
    found = shift_sd(lambda box: box + 0, chest, [(0, 0, 0), (5, 0, 0), (3, 4, 7)])
    assert (found.mean_hu, found.p95_hu, float(found.sd.max())) == (0, 0, 0)


def test_a_bias_of_the_window_gives_its_standard_deviation():
    """Every other column of the box is 6 HU too bright: over shifts of 0 to 3, each voxel has it twice, SD 3."""

    def reconstruct(box):
        out = box.clone()
        out[1::2] += 6
        return out

    found = shift_sd(reconstruct, np.full((7, 6, 5), 40, np.int16), [(i, 0, 0) for i in range(4)])
    assert found.sd.shape == (7, 6, 5)
    assert found.sd.numpy() == pytest.approx(3)
    assert (found.mean_hu, found.p95_hu) == pytest.approx((3, 3))


def test_the_map_shows_where_the_reconstruction_depends_on_the_shift():
    """Only the box's first slice is wrong, by 10 HU, and only the second offset leaves it to air."""

    def reconstruct(box):
        out = box.clone()
        out[..., 0] += 10
        return out

    found = shift_sd(reconstruct, torch.zeros(4, 4, 40), [(0, 0, 0), (0, 0, 1)])
    assert (found.sd[..., 0] == 5).all()
    assert (found.sd[..., 1:] == 0).all()
    assert found.mean_hu == pytest.approx(5 / 40)
    assert found.p95_hu == 0


def test_the_volume_is_left_as_it_was_and_surrounded_by_air():
    volume, seen = torch.zeros(3, 3, 3), []

    def reconstruct(box):
        seen.append((tuple(box.shape), float(box.sum())))
        return box.zero_()

    shift_sd(reconstruct, volume.add_(1), [(0, 0, 0), (1, 0, 2)])
    assert seen == [((4, 3, 5), 27 - 33 * 1000.0)] * 2
    assert (volume == 1).all()
