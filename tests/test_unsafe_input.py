"""Hostile names write nothing outside the output folder, and hostile files run nothing."""

import hashlib
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.data import find_cases
from ctpa_vqgan.data.cases import MAX_NAME_BYTES, safe_name
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import ModelExport
from ctpa_vqgan.losses import LPIPS
from ctpa_vqgan.networks import VQGAN

WINDOWS = {"patch_size": [32, 32, 8], "stride": [32, 32, 8]}
QUICK = ["progress=false", "device=cpu"]
TRAINING = {"num_samples": 1, "max_epochs": 1, "batch_size": 1, "num_workers": 0, "num_val_cases": 1}
TRAINING |= {"channels": [4, 8], "num_embeddings": 16, "codebook_init_steps": 1, "loss_weights::adversarial": 0}
TRAINING |= {"discriminator_channels": 4, "discriminator_layers": 1, "loss_weights::feature_matching": 0}
HOSTILE = {
    "the folder above": "..",
    "this folder": ".",
    "nothing": "",
    "a path": "../../x",
    "an absolute path": "/etc/cron.d/x",
    "NUL": "a\0b",
    "300 characters": "x" * 300,
    "300 characters of three bytes": "肺" * 300,
    "lines": "a\nb\r\n",
    "Windows": "..\\..\\x",
    "an option": "-rf",
    "a hidden file": ".bashrc",
    "a formula": "=cmd|' /C calc'!A0",
    "a terminal": "\x1b[2J",
    "written from right to left": "\u202egpj.x",
    "nothing to see": "\u200b",
    "a slash that is none": "..\uff0f..\uff0fx",
    "no text": b"\xff\xfe".decode(errors="surrogateescape"),
}

pytestmark = pytest.mark.usefixtures("python_as_it_was")


def run(command, *arguments, **settings):
    chosen = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    if command != "prepare":
        chosen += QUICK
    return main([command, *map(str, arguments), *(word for text in chosen for word in ("--set", text))])


def everything(folder: Path) -> dict[str, str]:
    """What lies in a folder: files with their hash, links with where they lead."""
    found = {}
    for path in folder.rglob("*"):
        name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_name_becomes_a_plain_one(name):
    safe = safe_name(name)
    assert safe == safe_name(safe)
    assert safe.isprintable()
    assert safe[0].isalnum() or safe[0] in "_["
    assert not set(safe) & set("/\\\0")
    assert len(safe.encode()) <= MAX_NAME_BYTES
    assert safe != name


def test_hostile_names_stay_apart():
    names = [*HOSTILE.values(), "a_b", "x" * 301, "xgpj.x", "a\tb"]
    assert len({safe_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["ct", "Müller Ä", "肺 3", "a.b-c_d (2)", "x" * MAX_NAME_BYTES, "CT+contrast,1"])
def test_an_ordinary_name_stays_as_it_is(name):
    assert safe_name(name) == name


@pytest.fixture(scope="module")
def volume(phantom):
    """A volume of 32 x 32 x 8 voxels, as bytes of a NIfTI file."""
    affine = np.diag([9.0, 9.0, 9.0, 1.0])
    return nib.Nifti1Image(np.asarray(phantom.volume)[8:40, 8:40, 16:24].astype(np.int16), affine).to_bytes()


@pytest.fixture
def hostile(tmp_path, volume):
    """A datalist of volumes in folders and under names that a file system takes."""
    folder, other = tmp_path / "in", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    other.mkdir()
    on_disk = [name for name in HOSTILE.values() if name and len(name) < 100 and not set(name) & set("/\0")]
    assert len(on_disk) >= 11
    for number, name in enumerate(on_disk):
        (folder / f"{name}.nii").write_bytes(volume[:-1] + bytes([number]))
    (folder / f"{'x' * 250}.nii").write_bytes(volume)
    (folder / ".nii").write_bytes(volume)
    (other / "x.nii").write_bytes(volume)
    (folder / "link.nii").symlink_to(other / "x.nii")
    images = [f"{name}.nii" for name in [*on_disk, "x" * 250, "", "../elsewhere/x", "sub/../link"]]
    images.append(str(folder / "sub/../link.nii"))
    listed = {"training": [images[0], images[-1]], "validation": images}
    (folder / "dataset.json").write_text(json.dumps(listed))
    return folder


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    network = VQGAN(channels=(4, 8), num_embeddings=16, embedding_dim=3)
    network.quantizer.initialized.fill_(True)
    ModelExport(tmp_path / "weights", network, {"hu_window": [-1000.0, 1000.0], **WINDOWS}).save()
    return tmp_path / "weights/model.pt"


def test_every_command_writes_into_its_output_folder_alone_and_through_no_link(hostile, weights, tmp_path, capsys):
    cases = len({case["case"] for case in find_cases(hostile)})
    assert cases >= 14
    held_out = len(find_cases(hostile, "validation"))
    expected = {"evaluate": held_out, "inference": cases, "encode": cases, "decode": cases}
    quick = {"compared_cases": 0, "shift_cases": 0, "phantoms": False, "pictured_cases": 1}
    steps = {
        "prepare": lambda out: run("prepare", hostile, "--output", out, "--workers", 0),
        "train": lambda out: run("train", "--data", hostile, "--output", out, **TRAINING, **WINDOWS),
        "evaluate": lambda out: run(
            "evaluate", "--data", hostile, "--output", out, "--checkpoint", weights, num_workers=0, **quick
        ),
        "inference": lambda out: run("inference", "--data", hostile, "--output", out, "--checkpoint", weights),
        "encode": lambda out: run("encode", "--data", hostile, "--output", out, "--checkpoint", weights),
        "decode": lambda out: run("decode", "--data", codes, "--output", out, "--checkpoint", weights),
    }
    codes = tmp_path / "codes"
    (tmp_path / "precious").write_text("do not touch")
    os.utime(tmp_path / "precious", (0, 0))  # older than all, so that no step takes it for a finished result
    for step, act in steps.items():
        out = tmp_path / ("codes" if step == "encode" else step)
        before = everything(tmp_path)
        assert act(out) in (0, 3), f"{step}: {capsys.readouterr().err}"
        after = everything(tmp_path)
        left = {name: what for name, what in after.items() if name.split("/")[0] != out.name}
        assert left == before, f"{step} wrote outside its folder"
        written = [name for name, what in after.items() if name.startswith(f"{out.name}/") and what != "folder"]
        assert all(name.isprintable() and not Path(name).name.startswith("-") for name in written)
        results = [name for name in written if name.endswith((".nii.gz", ".npz"))]
        assert len(results) == expected.get(step, 0), step
        if step not in ("inference", "encode", "decode"):
            continue
        # once more into a folder in which every result is there already, as a link to a file elsewhere
        traps = tmp_path / f"{step} again"
        traps.mkdir()
        for name in written:
            trap = traps / Path(name).relative_to(out.name)
            trap.parent.mkdir(exist_ok=True)
            trap.symlink_to(tmp_path / "precious")
        assert act(traps) == 0
        assert (tmp_path / "precious").read_text() == "do not touch"
        assert not any(path.is_symlink() for path in traps.rglob("*")), "links were replaced by results"


@pytest.mark.parametrize(
    "name", ["a\0b.nii", "x" * 300 + ".nii", "sub/" + "x" * 300 + "/a.nii", "", 3, ["a.nii"], None]
)
def test_a_name_that_no_file_can_have_is_refused_in_one_line(tmp_path, capsys, name):
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": name}]}))
    with pytest.raises(UserError, match="expected a MONAI datalist"):
        find_cases(tmp_path)
    with pytest.raises(UserError):
        find_cases(tmp_path, "training")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x" * 5000])
@pytest.mark.parametrize("command", ["inference", "decode"])
def test_data_of_a_name_that_no_file_can_have_is_refused_in_one_line(weights, tmp_path, capsys, name, command):
    assert run(command, "--data", name, "--output", tmp_path / "out", "--checkpoint", weights) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no such file or folder" in line


def test_members_of_archives_stay_inside(tmp_path, volume):
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.mkdir()
    members = ["../../outside/a.nii", f"{outside}/b.nii", "..\\..\\outside\\c.nii", "-rf.nii", "good.nii"]
    with zipfile.ZipFile(data / "z.zip", "w") as archive:
        for name in members:
            archive.writestr(name, volume)
    (tmp_path / "v.nii").write_bytes(volume)
    with tarfile.open(data / "t.tar", "w") as archive:
        link = tarfile.TarInfo("through")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        for name in [*members, "through/d.nii"]:
            archive.add(tmp_path / "v.nii", name)
    cases = find_cases(data)
    assert not list(outside.iterdir())
    assert any("good" in case["case"] for case in cases)
    assert all(case["case"] == safe_name(case["case"]) for case in cases)


def test_a_hostile_journal_removes_nothing_elsewhere(tmp_path, volume):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.nii").write_bytes(volume)
    (tmp_path / "precious.nii").write_bytes(b"do not touch")
    assert run("prepare", tmp_path / "in", "--output", tmp_path / "out", "--workers", 0) == 0
    journal = tmp_path / "out/sources.jsonl"
    record = json.loads(journal.read_text().splitlines()[1])
    for name in ("../precious.nii", str(tmp_path / "precious.nii"), "volumes/../../precious.nii", None, 3):
        lines = [{"private": ""}, record | {"file": name, "stamp": "another", "case": "ct-000000000000"}]
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert run("prepare", tmp_path / "in", "--output", tmp_path / "out", "--workers", 0) == 0
        assert (tmp_path / "precious.nii").read_bytes() == b"do not touch"


def test_prepare_does_not_write_through_a_link(tmp_path, volume, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.nii").write_bytes(volume)
    (tmp_path / "precious").write_text("do not touch")
    assert run("prepare", tmp_path / "in", "--output", tmp_path / "first", "--workers", 0) == 0
    for file in [path for path in (tmp_path / "first").rglob("*") if path.is_file()]:
        trap = tmp_path / "out" / file.relative_to(tmp_path / "first")
        trap.parent.mkdir(parents=True, exist_ok=True)
        trap.symlink_to(tmp_path / "precious")
    assert run("prepare", tmp_path / "in", "--output", tmp_path / "out", "--workers", 0) == 1
    assert "sources.jsonl: expected a file, found a link" in capsys.readouterr().err
    (tmp_path / "out/sources.jsonl").unlink()
    assert run("prepare", tmp_path / "in", "--output", tmp_path / "out", "--workers", 0) == 0
    assert (tmp_path / "precious").read_text() == "do not touch"


# -- files -------------------------------------------------------------------------------------------------------------


class Payload:
    """What a pickle would run: it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture(params=["as torch writes it", "a bare pickle", "among tensors"])
def trap(request, tmp_path):
    """A file that makes the folder ``gotcha`` where it is unpickled."""
    path, payload = tmp_path / "trap.pt", Payload(tmp_path / "gotcha")
    if request.param == "a bare pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload if "torch" in request.param else {"weight": torch.ones(2), "more": payload}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("trap.pt.sha256").write_text(f"{digest}  trap.pt\n")
    yield path
    assert not (tmp_path / "gotcha").exists(), "the payload ran"


def test_the_payload_is_one(tmp_path):
    torch.save(Payload(tmp_path / "gotcha"), tmp_path / "trap.pt")
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert (tmp_path / "gotcha").is_dir()


def test_a_malicious_checkpoint_ends_inference_in_one_line(trap, hostile, tmp_path, capsys):
    assert run("inference", "--data", hostile, "--output", tmp_path / "out", "--checkpoint", trap) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {trap}: damaged, or no plain")
    assert not (tmp_path / "out").exists()


def test_malicious_weights_to_start_from_end_training_in_one_line(trap, hostile, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("train", "--data", hostile, "--output", out, init_path=str(trap), **TRAINING, **WINDOWS) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {trap}: damaged, or no plain")


def test_malicious_perceptual_weights_are_refused_in_one_line(trap):
    with pytest.raises(ValueError, match="is not a file of tensors only") as error:
        LPIPS(trap)
    assert "\n" not in str(error.value)


def test_a_malicious_training_checkpoint_does_not_run(trap, hostile, tmp_path, capsys):
    folder = tmp_path / "out/checkpoints"
    folder.mkdir(parents=True)
    name = "checkpoint_000000001.pt"
    (folder / name).write_bytes(trap.read_bytes())
    (folder / f"{name}.sha256").write_text(trap.with_name("trap.pt.sha256").read_text().replace("trap.pt", name))
    ended = run("train", "--data", hostile, "--output", tmp_path / "out", **TRAINING, **WINDOWS)
    told = "".join(capsys.readouterr())
    assert ended == 0 or "error: " in told.splitlines()[-1]
    assert name in told
    assert "Traceback" not in told


def test_a_pickle_among_codes_does_not_run(weights, tmp_path, capsys):
    np.savez(tmp_path / "plain.npz", codes=np.array(Payload(tmp_path / "gotcha"), object))
    with zipfile.ZipFile(tmp_path / "plain.npz") as archive:
        pickled = archive.read("codes.npy")
    path = tmp_path / "trap.npz"
    mark = {"ctpa_vqgan_format": np.array(1, "<i8")}
    np.savez(path, **mark)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("codes", "shape", "network", "affine"):
            archive.writestr(f"{name}.npy", pickled)
        archive.comment = b"sha256:" + b"0" * 64
    content = path.read_bytes()[:-64]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    assert run("decode", "--data", path, "--output", tmp_path / "out", "--checkpoint", weights) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert not (tmp_path / "gotcha").exists()
