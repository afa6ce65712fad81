"""What identifies a patient in the inputs of ``prepare`` is in no byte that any later step writes.

Run as a script, this file is that later step: one process that trains, evaluates, reconstructs, encodes and decodes.
"""

import csv
import gzip
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

sys.path += [str(Path(__file__).parent / "data"), str(Path(__file__).parent / "data/formats")]

from corpus.metaimage import metaimage
from corpus.nifti import extension, gz, nifti
from corpus.nrrd import nrrd
from corpus.patient import chest, geometry
from dicom_corpus.files import write
from dicom_corpus.images import each, make

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.data.prepared import NAMES_NOTICE

# no text that is also found elsewhere, and of letters and digits only, so that no escaping can hide it
CANARIES = {
    "patient name": "qzfamily7",
    "patient id": "qzid7",
    "birth date": "19370413",
    "accession number": "qzaccession7",
    "study uid": "1.2.826.0.1.7919.4711",
    "series uid": "1.2.826.0.1.7919.4712",
    "institution": "qzhospital7",
    "referring physician": "qzdoctor7",
    "study description": "qzstudy7",
    "private element": "qzprivate7",
    "descrip": "qzdescrip7",
    "aux_file": "qzaux7",
    "intent_name": "qzintent7",
    "db_name": "qzdb7",
    "header extension": "qzextension7",
    "nrrd key": "qzkey7",
    "nrrd value": "qzvalue7",
    "metaimage comment": "qzcomment7",
    "metaimage patient": "qzmeta7",
    "folder name": "qzfolder7",
    "file name": "qzfile7",
    "archive name": "qzarchive7",
    "patient of the csv": "qzcsv7",
}
PRIVATE = {"report.json", "report.md", "sources.jsonl"}
WRONG = ("nowhere", "report.json", "sources.jsonl", "fingerprint.json")  # to be taken for data
PNG = b"\x89PNG\r\n\x1a\n"
SHAPE, SPACING = (44, 40, 36), (7.5, 8.0, 9.0)
TINY = """# Seconds on one core.
patch_size: [32, 32, 16]
num_samples: 2
channels: [4, 8]
num_embeddings: 16
embedding_dim: 4
codebook_init_steps: 1
max_epochs: 1
batch_size: 2
micro_batch_size: 2
adversarial_start: 1
discriminator_channels: 4
discriminator_layers: 1
num_workers: 1
num_val_cases: 1
val_interval: 1
max_bad_share: 0.5
progress: false
log_interval: 1
"""


# -- the search --------------------------------------------------------------------------------------------------------


def layers(name, content):
    """A file's bytes, and those of all that lies compressed in it."""
    yield name, content
    if content.startswith(b"\x1f\x8b"):
        yield from layers(f"{name}, unzipped", gzip.decompress(content))
    elif zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from layers(f"{name}, {member}", archive.read(member))
    for found in re.finditer(re.escape(PNG), content):  # event files hold pictures too
        with Image.open(io.BytesIO(content[found.start() :])) as picture:
            picture.load()
            yield f"{name}, texts of the picture", "\n".join(map(str, picture.info.values())).encode()


def leaks(folder, texts=CANARIES):
    """Canaries in names and contents of all files and folders, in any case, as UTF-8 and UTF-16: {canary: where}."""
    found = {}
    for file in sorted(folder.rglob("*")):
        for where, content in layers(str(file), file.read_bytes() if file.is_file() else b""):
            content = (where.encode() + b"\n" + content).lower()
            for canary, text in texts.items():
                if any(text.encode(form) in content for form in ("utf-8", "utf-16-le", "utf-16-be")):
                    found.setdefault(canary, []).append(where)
    return found


def test_a_name_is_found_in_a_checkpoint(tmp_path):
    import torch

    torch.save({"weights": torch.zeros(3), "files": ["/data/QZFamily7/ct.nii"]}, tmp_path / "checkpoint.pt")
    assert leaks(tmp_path).keys() == {"patient name"}


def test_a_name_is_found_in_a_compressed_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "codes.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.npy", b"0" * 100 + b"born 19370413" + b"0" * 100)
    assert b"19370413" not in (tmp_path / "codes.npz").read_bytes()
    assert leaks(tmp_path) == {"birth date": [f"{tmp_path / 'codes.npz'}, meta.npy"]}


def test_a_name_is_found_in_a_compressed_volume(tmp_path):
    (tmp_path / "ct.nii.gz").write_bytes(gz(nifti(np.zeros((4, 4, 4), np.int16), descrip=b"qzdescrip7"), level=9))
    assert leaks(tmp_path).keys() == {"descrip"}


def test_a_name_is_found_in_an_event_file(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_image("qzfolder7/montage", np.zeros((1, 8, 8), np.float32))
    assert leaks(tmp_path).keys() == {"folder name"}


def test_a_name_is_found_in_the_texts_of_a_picture(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "00000000 qzfile7 00000000", zip=True)
    Image.new("L", (8, 8)).save(tmp_path / "montage.png", pnginfo=texts)
    assert b"qzfile7" not in (tmp_path / "montage.png").read_bytes()
    assert leaks(tmp_path).keys() == {"file name"}


@pytest.mark.parametrize("form", ["latin-1", "utf-16", "utf-16-be"])
def test_a_name_is_found_in_every_form_of_text(tmp_path, form):
    (tmp_path / "log.txt").write_bytes(" QzHospital7 ".encode(form))
    assert leaks(tmp_path).keys() == {"institution"}


def test_a_name_is_found_in_the_name_of_an_empty_folder(tmp_path):
    (tmp_path / "qzfolder7").mkdir()
    assert leaks(tmp_path).keys() == {"folder name"}


# -- prepare -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A volume of each format and a mask, with all canaries in names, headers and extensions."""
    top = tmp_path_factory.mktemp("inputs")
    folder, name = top / CANARIES["folder name"], CANARIES["file name"]
    folder.mkdir()
    affine, voxels = geometry(SPACING), [chest(SHAPE, seed=seed) for seed in range(4)]
    texts = {key: CANARIES[key].encode() for key in ("descrip", "aux_file", "intent_name", "db_name")}
    texts["extension"] = extension(CANARIES["header extension"].encode())
    (folder / f"{name}.nii.gz").write_bytes(gz(nifti(voxels[0], affine, **texts)))
    keys = {CANARIES["nrrd key"]: CANARIES["nrrd value"]}
    (folder / f"{name}.nrrd").write_bytes(nrrd(voxels[1], affine, keys=keys))
    lines = {"Comment": CANARIES["metaimage comment"], "PatientName": CANARIES["metaimage patient"]}
    with zipfile.ZipFile(folder / f"{CANARIES['archive name']}.zip", "w") as archive:
        archive.writestr(f"export/{name}.mha", metaimage(voxels[2], affine, **lines))
    series = make(voxels[3], spacing=SPACING, study=CANARIES["study uid"], series=CANARIES["series uid"])
    each(series, PatientName=f"{CANARIES['patient name']}^Jane", PatientID=CANARIES["patient id"])
    each(series, PatientBirthDate=CANARIES["birth date"], AccessionNumber=CANARIES["accession number"])
    each(series, InstitutionName=CANARIES["institution"], StudyDescription=CANARIES["study description"])
    each(series, ReferringPhysicianName=CANARIES["referring physician"])
    for one in series:
        one.private_block(0x0029, "SCANNER", create=True).add_new(1, "LO", CANARIES["private element"])
    write(series, folder / "series", name=f"{name}-{{:03d}}")
    (folder / f"{name}-mask.nii").write_bytes(nifti((voxels[0] > 200).astype(np.uint8), affine, **texts))
    with (top / "who.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "patient"], [f"{name}.nrrd", CANARIES["patient of the csv"]]])
    return top


@pytest.fixture(scope="module")
def prepared(hospital, tmp_path_factory):
    """What ``prepare`` makes of it, through its front door."""
    folder = tmp_path_factory.mktemp("data") / "prepared"
    settings = ["--workers", "0", "--val-fraction", "0.2", "--patients", str(hospital / "who.csv")]
    assert main(["prepare", str(hospital), "--output", str(folder), *settings]) == 3, "the mask is refused"
    return folder


def test_every_canary_is_planted(hospital):
    assert leaks(hospital).keys() == CANARIES.keys()


def test_every_format_is_prepared(prepared):
    report = json.loads((prepared / "report.json").read_text())
    assert sorted(case["format"] for case in report["accepted"]) == ["DICOM", "MetaImage", "NIfTI", "NRRD"]
    assert [case["rule"] for case in report["refused"]] == ["hu-mask"]


def test_prepare_tells_names_to_its_private_pages_only(prepared):
    found = leaks(prepared)
    assert {Path(place).name for places in found.values() for place in places} == PRIVATE
    assert found.keys() == {"series uid", "folder name", "file name", "archive name"}, "and no more than these"


# -- later steps -------------------------------------------------------------------------------------------------------


def later_steps(data: Path, output: Path) -> None:
    """All commands that follow ``prepare``, in good and in bad ways; ends with an exception that nobody expects."""
    from ignite.engine import Events

    from ctpa_vqgan.data import mapped
    from ctpa_vqgan.handlers import Quarantine
    from ctpa_vqgan.report.sheet import Sheet

    def run(label, *arguments):
        print(f"---- {label}")
        try:
            codes[label] = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            codes[label] = ended.code
        (output / "exit_codes.json").write_text(json.dumps(codes))

    def train(label, source):
        run(label, "train", "--data", source, "--output", output / label, "--overlay", output / "tiny.yaml")

    codes, draw, attach, map_prepared = {}, Sheet.text, Quarantine.attach, mapped.map_prepared
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with Ctrl-C ignored
    # what is drawn is not searched for, what is told to be drawn is
    Sheet.text = lambda self, left, top, text, **style: (print("drawn:", text), draw(self, left, top, text, **style))
    (output / "tiny.yaml").write_text(TINY)

    damaged, listed = output / "damaged", json.loads((data / "dataset.json").read_text())
    shutil.copytree(data, damaged)
    for private in PRIVATE:
        (damaged / private).unlink()  # they would be found among the outputs
    with (damaged / listed["training"][0]["image"]).open("r+b") as file:
        file.truncate(50_000)
    train("train", damaged)
    quiet = ["--set", "progress=false", "--checkpoint", output / "train/model.pt"]
    tiles = [*quiet, "--set", "tile_size=[32,32,32]"]
    quick = ["--set", "codecs=[]", "--set", "shift_cases=0", "--set", "phantoms=false"]  # what takes minutes
    run("evaluate", "evaluate", *quiet, *quick, "--data", data, "--output", output / "evaluate")
    volume = data / listed["training"][1]["image"]
    run("inference", "inference", *quiet, "--data", volume, "--output", output / "inference")
    encoding = ["--max-error-hu", 20, "--set", "save_latents=true"]
    run("encode", "encode", *tiles, *encoding, "--data", data, "--output", output / "encode")
    run("decode", "decode", *tiles, "--data", output / "encode", "--output", output / "decode")

    run("encode damaged", "encode", *tiles, "--data", damaged, "--output", output / "encode damaged")
    for wrong in WRONG:
        run(f"wrong {wrong}", "inference", *quiet, "--data", data / wrong, "--output", output / "wrong")

    def attach_with_ctrl_c(self, engine):
        attach(self, engine)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: signal.raise_signal(signal.SIGINT))

    Quarantine.attach = attach_with_ctrl_c
    train("interrupted", data)
    Quarantine.attach = attach

    def breaking(path):  # in a loader process
        if Path(path).name == volume.name:
            raise RuntimeError(f"the reader broke on {path}")
        return map_prepared(path)

    mapped.map_prepared = breaking
    train("broken", data)


@pytest.fixture(scope="module")
def later(prepared, tmp_path_factory):
    """Folder with all that the later steps write, ``stdout`` and ``stderr`` among it, and how the process ended."""
    folder = tmp_path_factory.mktemp("later")
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        command = [sys.executable, __file__, str(prepared), str(folder)]
        result = subprocess.run(command, stdout=stdout, stderr=stderr, cwd=folder, timeout=300)
    return folder, result.returncode


def test_every_later_step_ends_as_it_should(later):
    folder, _ = later
    codes = json.loads((folder / "exit_codes.json").read_text())
    expected = dict.fromkeys(["train", "evaluate", "inference", "encode", "decode"], 0) | {"encode damaged": 3}
    expected |= dict.fromkeys([f"wrong {name}" for name in WRONG], 1) | {"interrupted": 130}
    assert codes == expected, (folder / "stderr").read_text()


def test_messages_name_the_neutral_case(later):
    folder, code = later
    stdout, stderr = ((folder / name).read_text() for name in ("stdout", "stderr"))
    assert re.search(r"damaged/volumes/ct-[0-9a-f]{12}\.nii: \[payload\] .*left out: 1 of 3 training cases", stderr)
    assert re.search(r"^left out: .*damaged/volumes/ct-[0-9a-f]{12}\.nii: \[payload\]", stderr, re.MULTILINE)
    assert NAMES_NOTICE not in stdout + stderr, "it is for files that are not prepared"
    assert code == 1
    assert "Traceback (most recent call last)" in stderr
    assert re.search(r"RuntimeError: the reader broke on .*/volumes/ct-[0-9a-f]{12}\.nii", stderr)
    assert re.search(r"^drawn: ct-[0-9a-f]{12}$", stdout, re.MULTILINE)


def test_the_neutral_case_is_found_where_a_name_would_stand(later, prepared):
    folder, _ = later
    cases = [path.stem for path in (prepared / "volumes").iterdir()]
    found = leaks(folder, {case: case for case in cases})
    written = {str(Path(where).relative_to(folder)).split(",")[0] for places in found.values() for where in places}
    kinds = ["train/checkpoints/.*pt", "train/tensorboard/.*", "evaluate/metrics.json", "evaluate/per_case.csv"]
    kinds += [
        "evaluate/report.md",
        "evaluate/report.html",
        "evaluate/cases/.*json",
        "evaluate/.*nii.gz",
        "encode/.*npz",
        "decode/.*nii.gz",
        "stdout",
        "stderr",
    ]
    assert [kind for kind in kinds if not any(re.fullmatch(kind, name) for name in written)] == []


def test_no_later_step_leaves_a_name_of_a_patient(later):
    folder, _ = later
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds >= {".pt", ".yaml", ".json", ".csv", ".md", ".png", ".gz", ".npz", ".nii"}
    assert leaks(folder) == {}


if __name__ == "__main__":
    later_steps(Path(sys.argv[1]), Path(sys.argv[2]))
