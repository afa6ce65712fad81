"""Which settings are tried: none twice, none that means nothing, and in a part of the case that has room for them."""

import math

import pytest

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers.sliding import overlap_of
from ctpa_vqgan.sweep import Choices, default_windows
from ctpa_vqgan.sweep.settings import Setting, choose, crop_size

FACTOR = (4, 4, 4)


def choices(**changed):
    knobs = {
        "windows": [[32, 32, 16]],
        "overlaps": [0.0, 0.25, 0.5],
        "blend_modes": ["gaussian", "linear", "constant"],
        "sigma_scales": [0.0625, 0.125, 0.25],
        "most": 99,
        "factor": FACTOR,
        "patch_size": (32, 32, 16),
        "stride": (24, 24, 12),
    }
    return Choices(**knobs | changed)


def settings(size=(128, 128, 64), full=None, **changed):
    return choose(choices(**changed), size, full or size).settings


def test_the_default_comes_first():
    assert settings()[0] == Setting((32, 32, 16), (24, 24, 12), "gaussian", 0.125)
    first = settings(stride=(16, 16, 8), blend_mode="linear")[0]
    assert first == Setting((32, 32, 16), (16, 16, 8), "linear", None)


def test_modes_are_tried_where_windows_overlap_and_sigmas_with_the_gaussian():
    found = settings()
    assert len(found) == len(set(found)) == 1 + 2 * (3 + 1 + 1)
    assert [s for s in found if s.stride == s.window] == [Setting((32, 32, 16), (32, 32, 16), "gaussian", 0.125)]
    assert {s.mode for s in found if s.sigma_scale is None} == {"linear", "constant"}
    assert {s.sigma_scale for s in found if s.mode == "gaussian"} == {0.0625, 0.125, 0.25}


def test_too_many_settings_become_those_that_are_one_knob_away_from_the_default():
    windows = [[64, 64, 32], [32, 32, 16], [96, 96, 48]]
    chosen = choose(choices(windows=windows, most=12), (256, 256, 128), (256, 256, 128))
    assert chosen.num_possible == 3 * (1 + 2 * 5)
    default, *others = chosen.settings
    # two windows, two overlaps, four blends
    assert len(others) == 2 + 2 + 4
    for other in others:
        window = other.window != default.window
        overlap = overlap_of(other.window, other.stride) != pytest.approx(
            overlap_of(default.window, default.stride), abs=0.05
        )
        blend = other[2:] != default[2:]
        assert window + overlap + blend == 1, other


def test_windows_beyond_the_case_are_clipped_and_tried_once_and_alone_without_overlaps():
    found = settings(size=(48, 44, 40), windows=[[256, 256, 128], [128, 128, 64], [32, 32, 16]])
    alone = [s for s in found if s.window == (48, 44, 40)]
    assert len(alone) == 1
    assert alone[0].num_windows((48, 44, 40)) == 1
    assert {s.window for s in found} == {(48, 44, 40), (32, 32, 16)}


def test_settings_that_lay_the_same_windows_are_tried_once():
    # in 40 voxels, windows of 32 begin at 0 and 8, whatever the step
    found = settings(size=(40, 40, 20), blend_modes=["gaussian", "constant"], sigma_scales=[0.125])
    assert [(s.mode, s.stride) for s in found] == [("gaussian", (24, 24, 12)), ("constant", (24, 24, 12))]
    linear = settings(size=(40, 40, 20), blend_modes=["linear"])
    assert len(linear) == 3, "but linear weights fall over the overlap that was set"


def test_a_part_shows_only_steps_for_which_it_has_room():
    size, full = (64, 64, 32), (512, 512, 128)
    chosen = choose(choices(windows=[[64, 64, 32], [48, 48, 24], [32, 32, 16]]), size, full)
    assert chosen.too_large == [(48, 48, 24)]
    assert {s.window for s in chosen.settings} == {(64, 64, 32), (32, 32, 16)}
    assert all(w == 64 or w + step <= 64 for s in chosen.settings for w, step in zip(s.window[:2], s.stride))
    thin = choose(choices(windows=[[32, 32, 16]]), (64, 64, 20), (512, 512, 20))
    assert thin.settings, "where the part is as thick as the case, the last window moves back in both"


def test_a_part_without_room_for_two_windows_is_refused():
    with pytest.raises(UserError, match="sweep_voxels: 40x40x20 voxels of this case have no room for two windows of"):
        choose(choices(), (40, 40, 20), (512, 512, 128))
    with pytest.raises(UserError, match="no room for two windows"):
        choose(choices(), (32, 32, 16), (512, 512, 128))


def test_a_stride_is_in_whole_codes_and_the_inferer_steps_by_it():
    for setting in settings(overlaps=[0.1, 0.3, 0.77], factor=(4, 4, 8), windows=[[36, 32, 24]]):
        assert all(step % f == 0 and 0 < step <= w for step, f, w in zip(setting.stride, (4, 4, 8), setting.window))
        shares = overlap_of(setting.window, setting.stride)
        assert tuple(int(w * (1 - o)) for w, o in zip(setting.window, shares)) == setting.stride


def test_the_default_windows_are_the_patch_its_half_and_its_quarter():
    assert default_windows((256, 256, 128), FACTOR) == [[256, 256, 128], [128, 128, 64], [64, 64, 32]]
    assert default_windows((12, 8, 4), FACTOR) == [[12, 8, 4], [4, 4, 4], [4, 4, 4]]


@pytest.mark.parametrize("voxels", [64, 1e4, 2e6, 30e6])
@pytest.mark.parametrize("shape", [(512, 512, 133), (512, 512, 9), (61, 50, 47)])
def test_a_part_has_at_most_so_many_voxels_in_whole_codes(shape, voxels):
    part = crop_size(shape, voxels, (256, 256, 128), FACTOR)
    assert math.prod(part) <= max(voxels, 4 * 4 * 4)
    assert all(p == s or p % 4 == 0 for p, s in zip(part, shape))
    if math.prod(shape) <= voxels:
        assert part == shape


def test_a_part_uses_what_it_may_in_the_proportions_of_a_window():
    x, y, z = crop_size((512, 512, 604), 2e6, (256, 256, 128), FACTOR)
    assert x == y == pytest.approx(2 * z, rel=0.05)
    assert x * y * z > 1.8e6
    assert crop_size((512, 512, 40), 8e6, (256, 256, 128), FACTOR)[2] == 40, "the whole of a thin side"


@pytest.mark.parametrize("voxels", [63, 0, -1, "all", True, math.nan])
def test_a_part_smaller_than_a_code_is_refused(voxels):
    with pytest.raises(UserError, match="sweep_voxels: expected null or at least the 64 voxels of one code, found"):
        crop_size((100, 100, 100), voxels, (32, 32, 16), FACTOR)


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        (
            "overlaps",
            0.5,
            "sweep_overlaps: expected a list of numbers from 0 to below 1 such as [0.0, 0.25], found 0.5",
        ),
        ("overlaps", [], "sweep_overlaps: expected"),
        ("overlaps", [1.0], "sweep_overlaps: expected"),
        ("overlaps", ["0.5"], "sweep_overlaps: expected"),
        ("blend_modes", "gaussian", "sweep_blend_modes: expected a list of gaussian, linear, constant such as"),
        ("blend_modes", ["cubic"], "sweep_blend_modes: expected"),
        ("sigma_scales", [0], "sweep_sigma_scales: expected a list of numbers above 0"),
        ("windows", [64, 64, 32], "sweep_windows: expected a list of windows whose sides are multiples of the factor"),
        ("windows", [[30, 32, 16]], "sweep_windows: expected"),
        ("windows", None, "sweep_windows: expected"),
        ("most", 0, "sweep_settings: expected a whole number of at least 1, found 0"),
        ("most", True, "sweep_settings: expected"),
    ],
)
def test_a_knob_that_is_no_list_of_what_it_should_be_is_refused(knob, value, message):
    with pytest.raises(UserError) as error:
        choices(**{knob: value})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
