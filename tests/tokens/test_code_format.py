"""What docs/code-format.md says is so."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctpa_vqgan.tokens import EncodedVolume, bound_error
from ctpa_vqgan.tokens.layout import OPTIONAL, REQUIRED
from ctpa_vqgan.tokens.packing import pack_codes

DOCUMENT = Path(__file__).parents[2] / "docs/code-format.md"
CANARIES = [b"Jane", b"Canary", b"19610307", b"MRN-4711", b"/secret"]


@pytest.mark.parametrize("num_embeddings", [2, 5000, 8192, 70000])
def test_the_snippet_reads_the_codes_with_numpy_alone(num_embeddings, make_volume, tmp_path):
    codes = np.random.default_rng(0).integers(0, num_embeddings, (8, 7, 5))
    path = make_volume(codes=codes, num_embeddings=num_embeddings).save(tmp_path / "case.npz")
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names = {"path": path}
    exec(snippet, names)
    assert np.array_equal(names["codes"], codes)


def test_the_worked_example_of_the_packing_is_right():
    assert "-> bytes 43, 138" in " ".join(DOCUMENT.read_text().split())
    assert pack_codes(np.array([1, 2, 7, 0, 5], np.uint16), 8).tolist() == [43, 138]


def test_every_member_is_explained(make_volume, tmp_path):
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*)\|", DOCUMENT.read_text(), re.MULTILINE))))
    assert explained >= {"ctpa_vqgan_format", *REQUIRED, *OPTIONAL}
    with np.load(make_volume().save(tmp_path / "case.npz")) as members:
        assert set(members) == {"ctpa_vqgan_format", *REQUIRED}


def test_the_last_71_bytes_are_the_seal(make_volume, tmp_path):
    import hashlib

    content = make_volume().save(tmp_path / "case.npz").read_bytes()
    assert content[-71:-64] == b"sha256:"
    assert content[-64:].decode() == hashlib.sha256(content[:-64]).hexdigest()


def test_nothing_of_a_patient_gets_into_a_file(make_volume, tmp_path):
    """The volume comes from a file that is full of names, through the transforms that every workflow uses."""
    from ctpa_vqgan.data import load_volume

    folder = tmp_path / "secret" / "Jane_Canary_MRN-4711"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.integers(-1000, 1000, (48, 44, 24)).astype(np.int16), np.diag([-0.8, 0.8, 2.0, 1]))
    image.header["descrip"], image.header["aux_file"], image.header["db_name"] = (
        b"Jane Canary",
        b"MRN-4711",
        b"19610307",
    )
    image.header["intent_name"] = b"Jane"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Canary 19610307"))
    nib.save(image, folder / "Jane_19610307.nii.gz")
    loaded = load_volume()({"image": str(folder / "Jane_19610307.nii.gz")})["image"]
    voxels = loaded[0].numpy()
    volume = make_volume(
        codes=rng.integers(0, 8192, (12, 11, 6)),
        shape=voxels.shape,
        affine=loaded.affine,
        original_shape=loaded.meta["original_shape"],
        original_affine=loaded.meta["original_affine"],
        # straight from a MetaTensor, which carries the path along
        latents=loaded[:, ::4, ::4, ::4].half(),
        residual=bound_error(voxels, np.zeros_like(voxels), 400),
    )
    path = volume.save(tmp_path / "case.npz")
    with np.load(path) as members:
        inflated = b"".join(members[name].tobytes() + name.encode() for name in members)
    text = re.sub(rb"\0", b"", inflated)  # numpy keeps text in four bytes a letter
    for canary in CANARIES:
        for content in (path.read_bytes(), inflated, text):
            assert canary.lower() not in content.lower()
    assert type(EncodedVolume.load(path).latents) is np.ndarray
