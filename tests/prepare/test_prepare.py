"""One command makes a checked data set, and can be stopped, repeated and added to."""

import csv
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.data import training_cases
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.prepare import prepare


@pytest.fixture
def hospital(phantom_folder, tmp_path) -> Path:
    """Three volumes, a mask and a text file, in nested folders."""
    folder = tmp_path / "hospital"
    for number, path in enumerate(sorted(phantom_folder.glob("*.nii.gz"))):
        target = folder / f"DOE^JOHN {number}" / "ct.nii.gz"
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    image = nib.load(folder / "DOE^JOHN 0/ct.nii.gz")
    mask = (np.asarray(image.dataobj) > 200).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, image.affine), folder / "mask.nii.gz")
    (folder / "notes.txt").write_text("nothing")
    return folder


def datalist(folder) -> dict[str, list[str]]:
    content = json.loads((folder / "dataset.json").read_text())
    return {part: [item["image"] for item in content[part]] for part in ("training", "validation")}


def snapshot(folder) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "volumes").iterdir()}


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_accepted_volumes_become_int16_nifti_with_the_voxels_and_the_place_of_the_source(hospital, tmp_path):
    result = prepare([hospital], tmp_path / "out", workers=0)
    assert len(result.accepted) == 3
    for record in result.accepted:
        source = nib.as_closest_canonical(nib.load(record["source"]))
        image = nib.load(tmp_path / "out" / record["file"])
        assert image.get_data_dtype() == np.int16
        voxels = np.asarray(source.dataobj)
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.where(voxels < -1500, -1000, voxels))
        assert (voxels == -2048).any(), "scanner padding, which becomes air"
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)


def test_a_refusal_is_told_with_file_rule_measurement_and_a_way_out(hospital, tmp_path):
    [refusal] = prepare([hospital], tmp_path / "out", workers=0).refused
    assert refusal["source"] == str(hospital / "mask.nii.gz")
    assert refusal["rule"] == "hu-mask"
    assert refusal["found"]
    assert refusal["what_to_do"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert next(iter(report)) == "private"
    assert report["refused"] == [refusal]
    assert len(report["accepted"]) == 3
    text = (tmp_path / "out/report.md").read_text()
    assert "rivate" in text.splitlines()[0]
    assert "hu-mask" in text
    assert (tmp_path / "out/thumbnails.png").read_bytes().startswith(b"\x89PNG")


def test_names_of_sources_are_in_the_private_files_only(hospital, tmp_path):
    prepare([hospital], tmp_path / "out", workers=0)
    named = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file() and b"DOE^JOHN" in path.read_bytes()}
    assert named == {"report.json", "report.md", "sources.jsonl"}
    assert json.loads((tmp_path / "out/sources.jsonl").read_text().splitlines()[0]).keys() == {"private"}


def test_a_patients_name_in_the_header_is_warned_about_and_left_out(hospital, tmp_path):
    path = hospital / "DOE^JOHN 0/ct.nii.gz"
    image = nib.load(path)
    image.header["descrip"] = b"ROE^JANE"
    nib.save(image, path)
    [record] = prepare([path], tmp_path / "out", workers=0).accepted
    assert "patient-name" in [warning["rule"] for warning in record["warnings"]]
    assert b"ROE" not in (tmp_path / "out" / record["file"]).read_bytes()


def test_processes_give_what_one_process_gives(hospital, tmp_path):
    prepare([hospital], tmp_path / "one", workers=0)
    prepare([hospital], tmp_path / "two", workers=2)
    assert (tmp_path / "one/dataset.json").read_text() == (tmp_path / "two/dataset.json").read_text()
    assert datalist(tmp_path / "one")["validation"]


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_is_looked_into_and_nothing_leaves_its_folder(hospital, tmp_path, suffix):
    archive, outside = tmp_path / f"export{suffix}", tmp_path / "escaped.nii.gz"
    volume = hospital / "DOE^JOHN 0/ct.nii.gz"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as content:
            content.write(volume, "a/ct.nii.gz")
            content.write(volume, "../../escaped.nii.gz")
    else:
        with tarfile.open(archive, "w:gz") as content:
            content.add(volume, "a/ct.nii.gz")
            content.add(volume, "../../escaped.nii.gz")
    result = prepare([archive], tmp_path / "out", workers=0)
    assert str(archive / "a/ct.nii.gz") in [record["source"] for record in result.accepted]
    assert not outside.exists()
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"dataset.json", "volumes"}
    assert not (tmp_path / "out/.work").exists()


# -- again, and more ---------------------------------------------------------------------------------------------------


def test_the_same_command_again_changes_no_volume(hospital, tmp_path):
    prepare([hospital], tmp_path / "out", workers=0)
    before, listed = snapshot(tmp_path / "out"), (tmp_path / "out/dataset.json").read_text()
    again = prepare([hospital], tmp_path / "out", workers=0)
    assert snapshot(tmp_path / "out") == before
    assert (tmp_path / "out/dataset.json").read_text() == listed
    assert len(again.refused) == 1


def test_new_cases_join_and_the_old_ones_keep_name_and_side(hospital, tmp_path):
    first = sorted(hospital.glob("DOE*"))
    prepare(first[:2], tmp_path / "out", workers=0)
    before, sides = snapshot(tmp_path / "out"), datalist(tmp_path / "out")
    prepare(first[2:], tmp_path / "out", workers=0)
    after = datalist(tmp_path / "out")
    assert snapshot(tmp_path / "out").items() >= before.items()
    assert all(set(sides[part]) <= set(after[part]) for part in sides)
    assert sum(map(len, after.values())) == 3


def test_a_source_that_changed_is_prepared_anew_and_its_old_volume_goes(hospital, tmp_path):
    path = hospital / "DOE^JOHN 0/ct.nii.gz"
    [old] = prepare([path], tmp_path / "out", workers=0).accepted
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), path)
    [new] = prepare([path], tmp_path / "out", workers=0).accepted
    assert new["case"] != old["case"]
    assert [file.name for file in (tmp_path / "out/volumes").iterdir()] == [Path(new["file"]).name]


def test_a_repaired_file_is_taken_the_next_time(hospital, tmp_path):
    path = tmp_path / "later.nii.gz"
    whole = (hospital / "DOE^JOHN 0/ct.nii.gz").read_bytes()
    path.write_bytes(whole[:-100])
    assert prepare([path], tmp_path / "out", workers=0).refused[0]["rule"] == "gzip"
    path.write_bytes(whole)
    result = prepare([path], tmp_path / "out", workers=0)
    assert (len(result.accepted), result.refused) == (1, [])


def test_a_killed_run_leaves_whole_files_only_and_the_next_one_finishes(hospital, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ctpa_vqgan", "prepare", str(hospital), "--output", str(out), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob("volumes/*.nii")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for path in out.glob("volumes/*"):
        nib.load(path).get_fdata()  # raises where the file is short
    half = snapshot(out)
    result = prepare([hospital], out, workers=0)
    assert len(result.accepted) == 3
    assert snapshot(out).keys() >= half.keys()
    assert not (out / ".work").exists()


def test_a_torn_line_of_the_journal_costs_that_case_only(hospital, tmp_path):
    prepare([hospital], tmp_path / "out", workers=0)
    before = datalist(tmp_path / "out")
    journal = tmp_path / "out/sources.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    prepare([hospital], tmp_path / "out", workers=0)
    assert datalist(tmp_path / "out") == before


def test_two_runs_do_not_write_to_one_folder(hospital, tmp_path):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another prepare is at work"):
            prepare([hospital], tmp_path / "out", workers=0)


# -- who is who --------------------------------------------------------------------------------------------------------


def test_a_patient_is_on_one_side_only(hospital, tmp_path):
    with (tmp_path / "who.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "patient"], ["DOE^JOHN 0/ct.nii.gz", "A"], ["DOE^JOHN 2/ct.nii.gz", "A"]])
    for seed in range(8):
        result = prepare([hospital], tmp_path / "out", workers=0, seed=seed, patients=tmp_path / "who.csv")
        side = {record["source"]: record["split"] for record in result.accepted}
        assert side[str(hospital / "DOE^JOHN 0/ct.nii.gz")] == side[str(hospital / "DOE^JOHN 2/ct.nii.gz")]
        assert len(set(side.values())) == 2


def test_the_same_scan_under_two_names_is_two_cases_with_a_warning_on_one_side(hospital, tmp_path):
    shutil.copy(hospital / "DOE^JOHN 0/ct.nii.gz", hospital / "again.nii.gz")
    result = prepare([hospital], tmp_path / "out", workers=0)
    twins = [record for record in result.accepted if record["case"].endswith("-2") or "again" in record["source"]]
    assert len(result.accepted) == 4
    assert len({record["file"] for record in result.accepted}) == 4
    assert len({record["split"] for record in twins}) == 1


# -- on the command line -----------------------------------------------------------------------------------------------


def test_the_exit_code_tells_all_accepted_from_some_refused_from_failure(hospital, tmp_path, capsys):
    out = ["--output", str(tmp_path / "out"), "--workers", "0"]
    assert main(["prepare", str(hospital / "DOE^JOHN 0"), *out]) == 0
    assert main(["prepare", str(hospital), *out]) == 3
    assert main(["prepare", str(hospital / "nowhere"), *out]) == 1
    assert main(["prepare", str(hospital / "notes.txt").replace("notes.txt", "DOE^JOHN 9"), *out]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 2
    assert "no such file" in errors[0]


def test_a_folder_without_volumes_is_a_failure_that_says_what_was_there(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").touch()
    assert main(["prepare", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 1
    assert "1 .txt" in capsys.readouterr().err


def _with_little_room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_full_disk_ends_with_one_line_and_no_half_file(hospital, tmp_path):
    command = [sys.executable, "-m", "ctpa_vqgan", "prepare", str(hospital), "--output", str(tmp_path / "out")]
    run = subprocess.run([*command, "--workers", "0"], preexec_fn=_with_little_room, capture_output=True, text=True)
    assert run.returncode == 1
    assert "could not be written" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert list((tmp_path / "out/volumes").iterdir()) == []


def test_nifti_is_prepared_without_itk(hospital, tmp_path):
    code = (
        "import sys; from ctpa_vqgan.prepare import prepare; "
        f"prepare([{str(hospital)!r}], {str(tmp_path / 'out')!r}, workers=0); "
        "sys.exit(any(name == 'itk' or name.startswith('itk.') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


# -- odd disks ---------------------------------------------------------------------------------------------------------


def test_a_link_to_the_same_folder_brings_no_second_case(hospital, tmp_path):
    (tmp_path / "link").symlink_to(hospital)
    prepare([hospital], tmp_path / "out", workers=0)
    again = prepare([tmp_path / "link", hospital], tmp_path / "out", workers=0)
    assert len(again.accepted) == 3


def test_data_that_moved_keep_their_cases(hospital, tmp_path):
    before = prepare([hospital], tmp_path / "out", workers=0)
    hospital.rename(tmp_path / "elsewhere")
    after = prepare([tmp_path / "elsewhere"], tmp_path / "out", workers=0)
    assert [record["case"] for record in after.accepted] == [record["case"] for record in before.accepted]


def test_an_interrupted_run_on_data_that_moved_lists_no_case_twice(hospital, tmp_path):
    prepare([hospital], tmp_path / "out", workers=0)
    old = (tmp_path / "out/sources.jsonl").read_bytes()
    hospital.rename(tmp_path / "elsewhere")
    prepare([tmp_path / "elsewhere"], tmp_path / "out", workers=0)
    new = (tmp_path / "out/sources.jsonl").read_bytes()
    (tmp_path / "out/sources.jsonl").write_bytes(old + new)  # as before the last step, which rewrites the file
    assert len(prepare([tmp_path / "elsewhere"], tmp_path / "out", workers=0).accepted) == 3
    assert sum(map(len, datalist(tmp_path / "out").values())) == 3


def test_a_scan_that_is_there_twice_is_warned_about(hospital, tmp_path):
    shutil.copy(hospital / "DOE^JOHN 0/ct.nii.gz", hospital / "again.nii.gz")
    result = prepare([hospital], tmp_path / "out", workers=0)
    warned = [record for record in result.accepted if "shared-voxels" in {w["rule"] for w in record["warnings"]}]
    assert {Path(record["source"]).name for record in warned} == {"ct.nii.gz", "again.nii.gz"}


def test_an_archive_in_an_archive_keeps_its_case(hospital, tmp_path):
    with tarfile.open(tmp_path / "inner.tar", "w") as content:
        content.add(hospital / "DOE^JOHN 0/ct.nii.gz", "ct.nii.gz")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as content:
        content.write(tmp_path / "inner.tar", "inner.tar")
    for _ in range(2):
        [record] = prepare([tmp_path / "outer.zip"], tmp_path / "out", workers=0).accepted
        assert record["source"] == str(tmp_path / "outer.zip/inner.tar/ct.nii.gz")


def test_what_is_prepared_is_no_input(hospital, tmp_path):
    prepare([hospital], hospital / "first", workers=0)
    second = prepare([hospital], hospital / "second", workers=0)
    assert len(second.accepted) == 3
    assert {entry["why"].split(";")[0] for entry in second.skipped} == {"prepared already"}


def test_a_prepared_volume_that_is_cut_is_left_out_and_made_again(hospital, tmp_path, capsys):
    first = prepare([hospital], tmp_path / "out", workers=0).accepted[0]
    os.truncate(tmp_path / "out" / first["file"], 1000)
    prepare([hospital / "mask.nii.gz"], tmp_path / "out", workers=0)
    assert "gone or damaged" in capsys.readouterr().err
    assert sum(map(len, datalist(tmp_path / "out").values())) == 2
    assert len(prepare([hospital], tmp_path / "out", workers=0).accepted) == 3


def test_names_of_old_disks_and_dead_links_stop_nothing(hospital, tmp_path):
    (hospital / "gone.nii").symlink_to("nowhere.nii")
    old = os.fsdecode(b"M\xfcller $1 \n.nii.gz")
    (hospital / "mask.nii.gz").rename(hospital / old)
    (hospital / "empty.zip").touch()
    os.mkfifo(hospital / "pipe.zip")
    result = prepare([hospital], tmp_path / "out", workers=0)
    assert len(result.accepted) == 3
    assert sorted(entry["rule"] for entry in result.refused) == ["hu-mask", *["unreadable"] * 3]
    assert "M\\udcfcller" in (tmp_path / "out/report.md").read_text()


def test_training_refuses_a_data_set_that_is_not_finished(hospital, tmp_path):
    prepare([hospital], tmp_path / "out", workers=0)
    (tmp_path / "out/dataset.json").unlink()
    with pytest.raises(UserError, match="prepare did not finish here"):
        training_cases(tmp_path / "out")


def test_a_second_ctrl_c_does_not_hang_and_no_process_is_left(hospital, tmp_path):
    command = [sys.executable, "-m", "ctpa_vqgan", "prepare", str(hospital), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "out/.work").exists() and process.poll() is None:
        time.sleep(0.02)
    for _ in range(2):
        time.sleep(0.3)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) != 0
    deadline = time.monotonic() + 20
    while alive_in_group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive_in_group(process.pid)


def alive_in_group(group: int) -> list[str]:
    """Processes of a group that still run; dead ones that nobody has collected do not count."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = path.parent.name, path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # gone in the meantime
        if int(rest[2]) == group and rest[0] != "Z":
            alive.append(pid)
    return alive
