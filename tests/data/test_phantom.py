"""Properties of the phantom: what is promised about its geometry, its HU and its files."""

import nibabel as nib
import numpy as np
import pytest

from ctpa_vqgan.data.phantom import HU, LABELS, make_phantom, write_phantom_dataset
from ctpa_vqgan.data.phantom.canvas import Canvas
from ctpa_vqgan.data.phantom.scan import scan
from ctpa_vqgan.data.phantom.tree import grow_tree

SMALL = {"size": (32, 32, 24), "spacing_mm": (11.0, 11.0, 15.0)}


@pytest.fixture(scope="module")
def chest():
    return make_phantom(size=(96, 96, 80), seed=3)


@pytest.fixture(scope="module")
def small():
    return make_phantom(**SMALL, seed=5)


@pytest.fixture(scope="module")
def hila():
    """Life-size about the hila: fine enough to see a clot with contrast around it."""
    return make_phantom(size=(130, 90, 80), spacing_mm=(1.0, 1.0, 1.0), fit=False, seed=3, noise_hu=0)


def mask(phantom, *names):
    return np.isin(phantom.labels, [LABELS[name] for name in names])


def grow(region, erode=False):
    """Dilate a mask by one voxel along each axis, or erode it."""
    padded = np.pad(~region if erode else region, 1)
    grown = padded.copy()
    for axis in range(3):
        grown |= np.roll(padded, 1, axis) | np.roll(padded, -1, axis)
    return ~grown[1:-1, 1:-1, 1:-1] if erode else grown[1:-1, 1:-1, 1:-1]


def test_the_same_seed_gives_the_same_phantom(small):
    again = make_phantom(**SMALL, seed=5)
    np.testing.assert_array_equal(small.volume, again.volume)
    np.testing.assert_array_equal(small.labels, again.labels)


def test_different_seeds_give_different_patients(small):
    assert np.mean(make_phantom(**SMALL, seed=6).labels != small.labels) > 0.05


def test_a_seed_is_one_patient_at_every_resolution(chest):
    """Halving the voxels moves no organ: nearly all labels agree with every second label of the finer grid."""
    coarse = make_phantom(size=(48, 48, 40), seed=3).labels
    organs = np.isin(coarse, [LABELS[name] for name in ("lung", "heart_blood", "outside", "padding")])
    fine = [chest.labels[i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    assert np.mean(np.any([labels == coarse for labels in fine], axis=0)[organs]) > 0.95


def test_every_label_is_present(chest):
    assert set(np.unique(chest.labels)) == set(LABELS.values())


@pytest.mark.parametrize("name", ["outside", "fat", "soft_tissue", "lung", "heart_wall", "heart_blood", "artery"])
def test_tissues_have_their_nominal_hu(hila, chest, name):
    phantom = chest if name == "outside" else hila
    assert np.median(phantom.volume[grow(mask(phantom, name), erode=True)]) == pytest.approx(HU[name], abs=45)


def test_emboli_are_dark_fillings_of_bright_arteries(hila):
    core = grow(mask(hila, "embolus"), erode=True)
    assert core.sum() > 50
    assert np.median(hila.volume[core]) == pytest.approx(HU["embolus"], abs=10)
    assert np.median(hila.volume[grow(mask(hila, "artery"), erode=True)]) == pytest.approx(HU["artery"], abs=10)


def test_emboli_lie_inside_arteries(hila):
    embolus = mask(hila, "embolus")
    shell = grow(embolus) & ~embolus & ~mask(hila, "padding")
    # A thin rim of contrast may be narrower than a voxel here and there.
    assert np.mean(mask(hila, "artery")[shell]) > 0.98


def test_arteries_lie_between_the_lungs_or_in_them(hila):
    """Nothing but lung, mediastinum, airways and other vessels touches an artery: no bone, no table, no air outside."""
    artery = mask(hila, "artery")
    shell = grow(artery) & ~artery
    assert not mask(hila, "bone", "table", "outside")[shell].any()


def test_a_tree_obeys_murray_and_hangs_together():
    points = np.random.default_rng(0).uniform(-50, 50, size=(200, 3))
    tree = grow_tree(np.zeros(3), np.array([0.0, 0.0, 1.0]), points, twig_mm=1.0)
    assert len(tree) == 2 * len(points) - 1
    for index, branch in enumerate(tree):
        children = [child for child in tree if child.parent == index]
        assert all(np.allclose(child.path[0], branch.path[-1]) for child in children)
        if children:
            assert branch.radius**3 == pytest.approx(sum(child.radius**3 for child in children))


def test_leaving_out_thin_branches_moves_no_other():
    points = np.random.default_rng(0).uniform(-50, 50, size=(100, 3))
    root = np.zeros(3), np.array([0.0, 0.0, 1.0]), points
    thick = [branch for branch in grow_tree(*root, twig_mm=1.0) if branch.radius >= 2]
    pruned = grow_tree(*root, twig_mm=1.0, min_mm=2)
    assert len(pruned) == len(thick)
    assert all(np.array_equal(a.path, b.path) for a, b in zip(pruned, thick))


def test_padding_fills_the_corners_outside_the_field_of_view(chest):
    padding = mask(chest, "padding")
    assert padding[0, 0].all() and not padding[48, 48].any()
    assert np.mean(padding) == pytest.approx(1 - np.pi / 4, abs=0.01)
    assert (chest.volume[padding] == HU["padding"]).all()
    assert (chest.volume[~padding] >= -1024).all()


def test_the_patient_lies_on_the_back_with_the_heart_to_the_left(chest):
    x, y, _ = (chest.affine[:3, :3] @ np.argwhere(mask(chest, "heart_wall")).mean(axis=0)) + chest.affine[:3, 3]
    table = (chest.affine[:3, :3] @ np.argwhere(mask(chest, "table")).mean(axis=0)) + chest.affine[:3, 3]
    assert x < 0  # RAS: right is positive
    assert table[1] < y


def test_odd_sizes_keep_their_shape_and_spacing():
    volume, labels, affine = make_phantom(size=(33, 47, 21), spacing_mm=(0.7, 0.9, 2.5))
    assert volume.shape == labels.shape == (33, 47, 21)
    assert volume.dtype == np.int16 and labels.dtype == np.uint8
    np.testing.assert_allclose(np.diag(affine), [0.7, 0.9, 2.5, 1])
    np.testing.assert_allclose(affine @ [16, 23, 10, 1], [0, 0, 0, 1], atol=1e-9)


def test_noise_scales_is_stronger_in_the_middle_and_is_not_white():
    """On a uniform canvas nothing but noise is left."""
    noise = {}
    for noise_hu in (10, 20):
        canvas = Canvas(size=(80, 80, 40), voxel_mm=(1.0, 1.0, 1.0))
        canvas.hu[:] = 50
        scan(canvas, noise_hu, np.random.default_rng(0))
        noise[noise_hu] = canvas.hu.T[30:50, 30:50].astype(float) - 50
    assert noise[10].std() == pytest.approx(1.2 * 10, rel=0.05)
    assert noise[20].std() == pytest.approx(2 * noise[10].std(), rel=0.02)
    for axis in range(3):
        here, next_to_it = np.delete(noise[10], 0, axis), np.delete(noise[10], -1, axis)
        assert np.corrcoef(here.ravel(), next_to_it.ravel())[0, 1] > 0.3


@pytest.mark.parametrize("wrong", [{"size": (8, 8)}, {"size": (8, 8, 0)}, {"spacing_mm": (1, 1, 0)}, {"noise_hu": -1}])
def test_impossible_requests_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_phantom(**wrong)


def test_a_data_set_is_a_flat_folder_of_loadable_volumes(tmp_path):
    paths = write_phantom_dataset(tmp_path / "data", 2, (24, 24, 16), (1.4, 1.4, 2.0), seed=7, labels=True)
    assert [path.name for path in paths] == ["phantom_00.nii.gz", "phantom_01.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [path.name for path in paths]
    image = nib.load(paths[1])
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(image.header.get_zooms(), (1.4, 1.4, 2.0), rtol=1e-6)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    expected = make_phantom((24, 24, 16), (1.4, 1.4, 2.0), seed=8)
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected.volume)
    truth = nib.load(tmp_path / "data_labels" / paths[1].name)
    np.testing.assert_array_equal(np.asarray(truth.dataobj), expected.labels)
