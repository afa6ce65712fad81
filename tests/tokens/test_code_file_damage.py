"""No damage to a code file goes unnoticed, and each refusal is one line that names the file and the way out."""

import re
import zipfile

import numpy as np
import pytest

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.tokens import EncodedVolume, bound_error
from ctpa_vqgan.tokens.container import FORMAT, write_sealed


@pytest.fixture
def code_file(make_volume, tmp_path):
    return make_volume().save(tmp_path / "case.npz")


def refusal(path, network=None):
    with pytest.raises(UserError) as error:
        EncodedVolume.load(path, network)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "; " in message, message
    return message


def resealed(path, **changes):
    """The same file with other members, and a seal that fits."""
    with np.load(path) as members:
        content = {name: members[name] for name in members if name != "ctpa_vqgan_format"}
    content.update(changes)
    return write_sealed(path, {name: value for name, value in content.items() if value is not None})


# -- by chance ---------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_wherever_it_is(code_file):
    """Every third byte of the file: names, dates and offsets of the zip too, which have no checksum of their own."""
    rng, whole = np.random.default_rng(0), code_file.read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        code_file.write_bytes(damaged)
        refusal(code_file)
    code_file.write_bytes(whole)
    EncodedVolume.load(code_file)


def test_200_flips_and_100_truncations_of_a_full_file_are_found(make_volume, tmp_path):
    rng = np.random.default_rng(1)
    original, decoded = rng.integers(-1024, 2000, (2, 30, 28, 17), np.int16)
    latents = rng.normal(size=(4, 8, 7, 5)).astype(np.float32)
    volume = make_volume(latents=latents, residual=bound_error(original, decoded, 0))
    path = volume.save(tmp_path / "case.npz")
    whole = path.read_bytes()
    for position in rng.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        refusal(path)
    for length in rng.integers(0, len(whole), 100):
        path.write_bytes(whole[:length])
        refusal(path)


def test_bytes_in_front_or_behind_are_found(code_file):
    whole = code_file.read_bytes()
    for changed in (b"\0" + whole, whole + b"\0", whole + whole):
        code_file.write_bytes(changed)
        refusal(code_file)


def test_a_zip_written_again_is_found(code_file):
    """Its members are the same, but who knows what happened to them."""
    with np.load(code_file) as members:
        content = {name: members[name] for name in members}
    np.savez(code_file, **content)
    assert "expected a seal at the end of the file" in refusal(code_file)


def test_the_header_of_a_truncated_file_is_refused(code_file):
    code_file.write_bytes(code_file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"case\.npz: expected a seal"):
        EncodedVolume.header(code_file)


# -- other files -------------------------------------------------------------------------------------------------------


def test_an_absent_file_and_a_folder_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.npz")
    assert "no such file" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip at all" * 100])
def test_something_else_is_refused(content, tmp_path):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    assert "expected a code file of ctpa_vqgan" in refusal(path)


def test_an_npz_of_someone_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", codes=np.zeros(5))
    assert "expected a code file of ctpa_vqgan" in refusal(tmp_path / "other.npz")


def test_a_pickle_is_never_opened(code_file):
    """Even under a right seal."""
    with zipfile.ZipFile(code_file) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())

    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was opened",)

    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        resealed(code_file, network=np.array(Trap(), object))


# -- a right seal on wrong content -------------------------------------------------------------------------------------


def test_another_format_version_is_refused(code_file, monkeypatch):
    monkeypatch.setattr("ctpa_vqgan.tokens.container.FORMAT", FORMAT + 1)
    resealed(code_file)
    monkeypatch.undo()
    message = refusal(code_file)
    assert f"expected format version {FORMAT}, found version {FORMAT + 1}" in message and "that wrote it" in message


def test_another_network_is_refused(code_file):
    EncodedVolume.load(code_file, "0123456789abcdef" * 4)
    message = refusal(code_file, "f" * 64)
    assert "expected codes of the network ffffffffffff..., found those of 0123456789ab...; decode with" in message


WRONG = {
    "a member is missing": ({"factor": None}, "factor"),
    "codes are missing": ({"codes": None}, "codes"),
    "a type changed": ({"shape": np.array([30.0, 28.0, 17.0])}, r"shape must be int64 \[3\], found float64"),
    "a shape changed": ({"affine": np.eye(3)}, "affine must be float64"),
    "the volume is larger": ({"shape": np.array([34, 28, 17])}, "expected 512 bytes of 315 codes, found 455"),
    "the volume turned": ({"shape": np.array([28, 30, 17])}, "one grid but for the order of axes"),
    "fewer codes exist": ({"num_embeddings": np.array(5000)}, "codes must lie in 0 to 4999"),
    "no codes exist": ({"num_embeddings": np.array(0)}, "num_embeddings must be 2"),
    "the factor is none": ({"factor": np.array([0, 4, 4])}, "factor must be three positive"),
    "a path as network": ({"network": np.array("/home/jane/model.pt")}, "network must match"),
    "half a residual": ({"residual": np.zeros(5, np.uint8)}, "residual_sizes"),
    "half the statistics": ({"latent_mean": np.zeros(4, np.float32)}, "come together"),
}


@pytest.mark.parametrize("name", WRONG)
def test_content_that_does_not_fit_is_refused(name, code_file):
    changes, message = WRONG[name]
    resealed(code_file, **changes)
    assert re.search(message, refusal(code_file))
