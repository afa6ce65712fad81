"""Random damage to a compressed scan is found, wherever it falls."""

import numpy as np
import pytest
from corpus.damage import flip, zero
from corpus.nifti import gz, nifti
from corpus.patient import chest, geometry

from ctpa_vqgan.data.volumes import read_volume
from ctpa_vqgan.errors import BadVolume

SHAPE, SPACING = (128, 128, 72), (2.5, 2.5, 4.0)
COUNT, BLOCK = 100, 4096
GZIP_HEADER = 10  # bytes; those of time and system mean nothing to the voxels, so a flip there damages nothing


@pytest.fixture(scope="module")
def scan():
    """A compressed scan of over a megabyte, with the noise that keeps real ones from compressing well."""
    content = gz(nifti(chest(SHAPE), geometry(SPACING)), level=6)
    assert 1e6 < len(content) < 3e6
    return content


def flips(scan, rng):
    places = rng.choice(np.arange(GZIP_HEADER, len(scan)), COUNT, replace=False)
    return {f"bit {bit} of byte {at}": flip(scan, int(at), bit) for at, bit in zip(places, rng.integers(0, 8, COUNT))}


def lost_blocks(scan, rng):
    starts = BLOCK * rng.choice(-(-len(scan) // BLOCK), COUNT, replace=False)
    return {f"block at {at}": zero(scan, int(at), BLOCK) for at in starts}


def truncations(scan, rng):
    return {f"{size} bytes": scan[:size] for size in rng.choice(len(scan), COUNT, replace=False)}


def is_refused(path):
    try:
        read_volume(path)
    except BadVolume:
        return True
    return False


def test_the_scan_without_damage_is_accepted(scan, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(scan)
    volume = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.voxels, chest(SHAPE))
    assert volume.warnings == []


@pytest.mark.parametrize("damage", [flips, lost_blocks, truncations])
def test_a_hundred_of_a_hundred_damages_are_found(scan, tmp_path, damage):
    damaged = damage(scan, np.random.default_rng(2024))
    assert len(damaged) == COUNT
    assert scan not in damaged.values()
    path = tmp_path / "scan.nii.gz"
    accepted = []
    for what, content in damaged.items():
        path.write_bytes(content)
        if not is_refused(path):
            accepted.append(what)
    assert accepted == []
