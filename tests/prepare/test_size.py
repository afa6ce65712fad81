"""``prepare --size``: volumes on one coarser grid, for networks that see whole volumes."""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "data"))

from corpus.nifti import nifti
from corpus.patient import chest, geometry

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.data import find_cases
from ctpa_vqgan.data.patches import check_sizes
from ctpa_vqgan.data.resampled import shrink, shrunk_affine
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.prepare import prepare

SHAPE, SPACING, SIZE = (40, 36, 34), (8.0, 8.5, 9.5), (32, 32, 16)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    """Two chests, and one with too few slices."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate("ab"):
        (folder / f"{name}.nii").write_bytes(nifti(chest(SHAPE, seed=seed), geometry(SPACING)))
    (folder / "thin.nii").write_bytes(nifti(chest(SHAPE, seed=2)[:, :, :12], geometry(SPACING)))
    return folder


@pytest.fixture(scope="module")
def prepared(volumes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "out"
    return folder, prepare([volumes], folder, workers=0, size=SIZE)


def test_every_volume_is_the_box_of_its_source_on_that_grid(volumes, prepared):
    folder, result = prepared
    assert len(result.accepted) == 2
    for record in result.accepted:
        source = nib.as_closest_canonical(nib.load(record["source"]))
        image = nib.load(folder / record["file"])
        voxels = np.asarray(source.dataobj).astype(np.int16)
        expected = shrink(np.where(voxels < -1500, -1000, voxels), SIZE, hu_range=None)
        np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
        np.testing.assert_allclose(image.affine, shrunk_affine(source.affine, SHAPE, SIZE), atol=1e-4)
        assert (record["shape"], record["original_shape"]) == (list(SIZE), list(SHAPE))
        extent = [side * mm for side, mm in zip(SHAPE, SPACING)]
        assert [side * mm for side, mm in zip(SIZE, record["spacing_mm"])] == pytest.approx(extent, rel=1e-4)
    check_sizes(find_cases(folder), SIZE)


def test_a_volume_with_fewer_voxels_is_refused_alone(volumes, prepared):
    [refusal] = prepared[1].refused
    assert (refusal["source"], refusal["rule"]) == (str(volumes / "thin.nii"), "shrink")
    assert refusal["found"] == "40 x 36 x 12 for 32 x 32 x 16"


def test_the_reports_tell_it(prepared):
    folder, _ = prepared
    assert json.loads((folder / "report.json").read_text())["settings"]["size"] == list(SIZE)
    assert "| 32 x 32 x 16 (of 40 x 36 x 34) |" in (folder / "report.md").read_text()
    assert json.loads((folder / "dataset.json").read_text())["description"].endswith("to 32 x 32 x 16 voxels")


def test_shards_make_byte_for_byte_the_same(volumes, prepared, tmp_path):
    for shard in ("2/2", "1/2"):
        prepare([volumes], tmp_path / "out", workers=0, shard=shard, size=SIZE)
    found, expected = (
        {path.name: path.read_bytes() for path in (*folder.glob("[a-z]*.*"), *folder.glob("volumes/*"))}
        for folder in (tmp_path / "out", prepared[0])
    )
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name] and name != "sources.jsonl"] == []


@pytest.mark.parametrize("shard", [None, "2/2"])
@pytest.mark.parametrize(("first", "then"), [(SIZE, (32, 32, 20)), (SIZE, None), (None, SIZE)])
def test_a_folder_has_volumes_of_one_making(volumes, tmp_path, first, then, shard):
    out, told = tmp_path / "out", {None: "no --size", SIZE: "--size 32 32 16", (32, 32, 20): "--size 32 32 20"}
    prepare([volumes / "a.nii"], out, workers=0, size=first, shard=shard and "1/2")
    before = {path: path.read_bytes() for path in out.rglob("*.nii")}
    with pytest.raises(UserError) as error:
        prepare([volumes / "a.nii"], out, workers=0, size=then, shard=shard)
    assert str(error.value) == (
        f"{out}: expected {told[first]}, with which its volumes were made, found {told[then]}; give the same, or "
        "choose another --output"
    )
    assert {path: path.read_bytes() for path in out.rglob("*.nii")} == before != {}


def test_the_same_size_again_changes_nothing(volumes, prepared):
    folder, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in folder.glob("volumes/*")}
    assert len(prepare([volumes], folder, workers=0, size=SIZE).accepted) == 2
    assert {path: path.stat().st_mtime_ns for path in folder.glob("volumes/*")} == before


def test_crops_of_one_scan_are_told_as_on_the_full_grid(tmp_path):
    whole = chest((44, 36, 34), seed=5)
    for name, part in (("a", slice(0, 40)), ("b", slice(4, 44))):
        (tmp_path / f"{name}.nii").write_bytes(nifti(whole[part], geometry(SPACING)))
    inputs = [tmp_path / "a.nii", tmp_path / "b.nii"]
    result = prepare(inputs, tmp_path / "out", workers=0, size=SIZE)
    assert all("shared-voxels" in [w["rule"] for w in record["warnings"]] for record in result.accepted)


def test_a_prepared_data_set_is_not_prepared_again(prepared, tmp_path):
    for source in (prepared[0], prepared[0] / "volumes"):
        with pytest.raises(UserError, match=r"a prepared data set\? Give what it was made of"):
            prepare([source], tmp_path, workers=0, size=SIZE)


@pytest.mark.parametrize("size", [(64.0, 64.0, 40.0), ("64", "64", "40"), "abc", (64, 64)])
def test_a_size_that_is_none_is_one_line(volumes, tmp_path, size):
    with pytest.raises(UserError, match="--size: expected X Y Z of at least 32 x 32 x 8 voxels"):
        prepare([volumes], tmp_path, workers=0, size=size)


def test_on_the_command_line(volumes, tmp_path, capsys):
    command = ["prepare", str(volumes / "a.nii"), "--output", str(tmp_path / "out"), "--workers", "0"]
    assert main([*command, "--size", "16", "32", "16"]) == 1
    message = "error: --size: expected X Y Z of at least 32 x 32 x 8 voxels, found 16 x 32 x 16"
    assert capsys.readouterr().err.splitlines() == [message]
    assert not (tmp_path / "out").exists()
    assert main([*command, "--size", "32", "32", "8"]) == 0
