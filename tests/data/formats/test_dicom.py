import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from dicom_corpus import BAD, LEGAL, WARNED
from dicom_corpus.files import cut, write
from dicom_corpus.images import BIRTH, DESCRIPTION, PATIENT, make, other_object, scout, shift
from dicom_corpus.phantom import AXIAL, GOOD, seed_hu, truth
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from ctpa_vqgan.data.checks.rules import RULES
from ctpa_vqgan.data.formats.dicom import find, find_series, gdcm, is_dicom, read_series
from ctpa_vqgan.data.formats.dicom.facts import Header, Slice
from ctpa_vqgan.errors import BadVolume

ROOT = Path(__file__).parents[3]
REAL_DATA = Path(os.environ.get("CTPA_VQGAN_DATA", ROOT.parent / "shared/data"))


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def look(folder):
    """What the module makes of a folder: volumes, refusals, files left out."""
    series, refused, skipped = find_series(files_below(folder))
    volumes = []
    for one in series:
        try:
            volumes.append(read_series(one.files))
        except BadVolume as error:
            refused.append(error)
    return volumes, refused, skipped


def found_by(folder):
    """The one refusal of a folder."""
    volumes, refused, _ = look(folder)
    assert not volumes
    (error,) = refused
    return error


def check(volumes, expected):
    assert len(volumes) == len(expected)
    for one in expected:
        (volume,) = [volume for volume in volumes if np.array_equal(volume.voxels, one.hu)]
        assert volume.voxels.dtype == np.int16
        np.testing.assert_allclose(volume.affine, one.affine, rtol=0, atol=1e-9)


# -- the tables --------------------------------------------------------------------------------------------------------


def test_the_tables_are_as_long_as_promised():
    assert len(BAD) >= 40
    assert len(LEGAL) >= 40


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_refused_by_its_rule(name, tmp_path):
    build, rule = BAD[name]
    build(tmp_path / "series")
    error = found_by(tmp_path)
    assert error.rule == rule
    assert error.path.startswith(str(tmp_path / "series"))
    assert len(str(error)) < 450


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_folder_gives_its_exact_voxels_and_affine(name, tmp_path):
    expected = LEGAL[name](tmp_path / "series")
    volumes, refused, _ = look(tmp_path)
    assert refused == []
    check(volumes, expected)
    assert not any(volume.warnings for volume in volumes)


@pytest.mark.parametrize("name", WARNED)
def test_an_odd_folder_is_read_as_it_is_with_its_warning(name, tmp_path):
    build, rule = WARNED[name]
    expected = build(tmp_path / "series")
    volumes, refused, _ = look(tmp_path)
    assert refused == []
    check(volumes, expected)
    assert [finding.rule for finding in volumes[0].warnings] == [rule]
    assert RULES[rule].warns


# -- is_dicom ----------------------------------------------------------------------------------------------------------


def test_dicom_is_known_by_its_content(tmp_path):
    path = write(make()[:1], tmp_path, name="no_extension{}")[0]
    assert is_dicom(path)
    assert is_dicom(str(path))
    (tmp_path / "volume.dcm").write_bytes(b"no DICOM " * 100)
    assert not is_dicom(tmp_path / "volume.dcm")


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"\x08\0\5\0CS", b"\x08\0\0\0\4\0\0\0", b"\x02\0\0\0UL\4\0", bytes(600)]
)
def test_files_too_short_or_empty_are_not_dicom(content, tmp_path):
    (tmp_path / "short").write_bytes(content)
    assert not is_dicom(tmp_path / "short")


def test_folders_and_missing_files_are_not_dicom(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not any(is_dicom(path) for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe"))


def test_a_table_of_contents_is_not_dicom(tmp_path):
    index = other_object(UID("1.2.840.10008.1.3.10"), "")
    assert not is_dicom(write([index], tmp_path, name="DICOMDIR")[0])


# -- find_series -------------------------------------------------------------------------------------------------------


def test_files_come_in_the_order_of_their_position(tmp_path):
    paths = write(make()[::-1], tmp_path)
    (series,), refused, skipped = find_series(paths)
    assert series.files == tuple(str(path) for path in paths[::-1])
    assert (refused, skipped) == ([], [])


def test_a_series_knows_its_folder_uid_and_patient(tmp_path):
    slices = make(series="1.2.77")
    write(slices[:6], tmp_path / "top/a")
    write(slices[6:], tmp_path / "top/b/c")
    (series,), _, _ = find_series(files_below(tmp_path))
    assert (series.folder, series.uid, series.patient) == (str(tmp_path / "top"), "1.2.77", PATIENT)


def test_progress_counts_every_file(tmp_path):
    steps = []
    find_series([*write(make(), tmp_path), tmp_path / "missing.txt"], steps.append)
    assert steps == [1] * 13


def test_nothing_but_the_patient_id_leaves_the_module(tmp_path):
    write(make(), tmp_path)
    result = find_series(files_below(tmp_path))
    told = repr(result) + repr(read_series(result[0][0].files))
    assert PATIENT in told
    assert not any(secret in told for secret in ("Doe", "Jane", BIRTH, DESCRIPTION))


@pytest.mark.parametrize(("charset", "patient"), [("ISO_IR 100", "Müller-7"), ("ISO_IR 192", "Мария-7")])
def test_patients_with_letters_beyond_ascii_can_be_written_down(charset, patient, tmp_path):
    slices = make(patient=patient)
    for one in slices:
        one.SpecificCharacterSet = charset
    (series,), _, _ = find_series(write(slices, tmp_path))
    assert series.patient == patient
    assert read_series(series.files).patient == patient


def test_an_empty_patient_id_is_none(tmp_path):
    (series,), _, _ = find_series(write(make(patient=""), tmp_path))
    assert series.patient is None
    assert read_series(series.files).patient is None


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("junk beside it", {"readme.txt", "Thumbs.db", "._IM0001.dcm", "empty", "report.json"}),
        ("DICOMDIR, report, raw data and a private object beside it", {"DICOMDIR", "OT1", "OT2", "OT3"}),
        ("small scout in the folder", {"SC1.dcm"}),
        ("small scouts of the same series", {"A1.dcm", "A2.dcm"}),
        ("scout of the same size in the series", {"A1.dcm", "A2.dcm"}),
        ("screenshot with a series of its own", {"IM0001.dcm"}),
        ("a series copied into two folders", {f"other name {k}" for k in range(1, 13)}),
        ("one instance UID in all slices", set()),
    ],
)
def test_what_is_left_out_is_told(name, left_out, tmp_path):
    LEGAL[name](tmp_path)
    _, _, skipped = find_series(files_below(tmp_path))
    assert {Path(one.path).name for one in skipped} == left_out
    assert all(one.why for one in skipped)


def test_a_copy_is_told_as_one_and_the_first_file_is_read(tmp_path):
    slices = make()
    first, copy = write(slices, tmp_path / "a"), write(slices, tmp_path / "b")
    (series,), refused, skipped = find_series(copy + first)
    assert refused == []
    assert series.files == tuple(str(path) for path in first)
    assert [one.path for one in skipped] == [str(path) for path in copy]
    assert {one.why for one in skipped} == {"copy of another file of the series"}


def test_a_damaged_copy_is_not_passed_over(tmp_path):
    slices = make()
    write(slices, tmp_path / "a")
    broken = write(slices, tmp_path / "b")[3]
    cut(broken, -1)
    series, (error,), _ = find_series(files_below(tmp_path))
    assert series == []
    assert (error.rule, error.path) == ("dicom-damaged", str(broken))


def test_a_damaged_file_is_named_and_spoils_its_own_series_only(tmp_path):
    good, broken = write(make(), tmp_path, name="A{}"), write(make(seed_hu(5)), tmp_path, name="B{}")
    cut(broken[5], 2000)
    series, (error,), _ = find_series(good + broken)
    assert [set(one.files) for one in series] == [{str(path) for path in good}]
    assert (error.rule, error.path) == ("dicom-damaged", str(broken[5]))


def test_a_damaged_file_of_unknown_series_spoils_its_folder(tmp_path):
    good, broken = write(make(), tmp_path / "a"), write(make(seed_hu(5)), tmp_path / "b")
    write(make(seed_hu(6)), tmp_path / "b", name="other{}")
    cut(broken[5], 400)
    series, refused, _ = find_series(files_below(tmp_path))
    assert [set(one.files) for one in series] == [{str(path) for path in good}]
    assert [(error.rule, error.path) for error in refused] == [("dicom-damaged", str(broken[5]))] * 2


def test_a_damaged_file_alone_is_refused(tmp_path):
    path = write(make()[:1], tmp_path)[0]
    cut(path, 300)
    series, (error,), skipped = find_series([path])
    assert (series, skipped) == ([], [])
    assert (error.rule, error.path) == ("dicom-damaged", str(path))


def test_a_damaged_scout_spoils_nothing(tmp_path):
    write(make(), tmp_path)
    overview = scout()
    overview[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    cut(write(overview, tmp_path, name="SC{}")[0], -1)
    volumes, refused, skipped = look(tmp_path)
    check(volumes, [GOOD])
    assert refused == []
    assert len(skipped) == 1


def test_references_to_other_series_do_not_mislead(tmp_path):
    """A derived image names the series that it was made of before its own."""
    source, derived = make(series="1.2.100"), make(seed_hu(5), series="1.2.200")
    for one in derived:
        item = Dataset()
        item.SeriesInstanceUID = "1.2.100"
        one.ReferencedSeriesSequence = Sequence([item])
    good, broken = write(source, tmp_path, name="A{}"), write(derived, tmp_path, name="B{}")
    cut(broken[3], -1)
    series, (error,), _ = find_series(good + broken)
    assert [one.uid for one in series] == ["1.2.100"]
    assert error.path == str(broken[3])


def test_other_modalities_are_refused_beside_a_good_ct(tmp_path):
    write(make(), tmp_path / "CT")
    scans = make(seed_hu(5))
    for one in scans:
        one.Modality = "PT"
    write(scans, tmp_path / "PT")
    volumes, (error,), _ = look(tmp_path)
    check(volumes, [GOOD])
    assert (error.rule, error.path) == ("dicom-modality", str(tmp_path / "PT"))
    assert "PT in 12 files" in str(error)


# -- read_series -------------------------------------------------------------------------------------------------------


def test_the_order_of_the_files_does_not_matter(tmp_path):
    paths = write(make(), tmp_path)
    np.random.default_rng(0).shuffle(paths)
    volume = read_series(paths)
    check([volume], [GOOD])
    assert volume.voxels.flags.f_contiguous
    assert volume.warnings == []


def test_a_gap_is_told_in_mm_and_slices(tmp_path):
    BAD["one slice missing"][0](tmp_path / "one")
    assert "2.50 mm between -295.00 and -292.50 mm" in str(found_by(tmp_path / "one"))
    assert "about 1 slice missing" in str(found_by(tmp_path / "one"))
    BAD["ten slices missing"][0](tmp_path / "ten")
    assert "about 10 slices missing" in str(found_by(tmp_path / "ten"))


def test_uneven_spacing_is_told_as_a_range(tmp_path):
    BAD["spacing 1.25 then 2.5 mm"][0](tmp_path)
    assert "steps from 1.25 to 2.50 mm" in str(found_by(tmp_path))


def test_two_slices_at_one_place_are_named(tmp_path):
    BAD["another slice at one position"][0](tmp_path)
    assert "two slices at -292.50 mm (IM0007.dcm and IM0008.dcm)" in str(found_by(tmp_path))


def test_a_tilt_is_told_in_degrees(tmp_path):
    BAD["gantry tilt of 15 degrees"][0](tmp_path)
    assert "gantry tilt of 15.0 degrees" in str(found_by(tmp_path))


def test_a_slight_drift_is_kept_in_the_affine(tmp_path):
    """0.2 degrees are within the rule; the affine says where every slice lies."""
    slices = make()
    for k, one in enumerate(slices):
        shift([one], 0.004 * k, axis=0)
    write(slices, tmp_path)
    (volume,), _, _ = look(tmp_path)
    np.testing.assert_allclose(volume.affine[:3, 2], (-0.004, 0, 1.25), atol=1e-9)


def test_files_of_two_sizes_are_refused(tmp_path):
    paths = write(make() + make(truth(2, 5, (48, 44))), tmp_path)
    with pytest.raises(BadVolume, match=r"dicom-size.*40 x 36 pixels in IM0001.dcm and 48 x 44 in IM0013.dcm"):
        read_series(paths)


def test_a_file_that_vanished_is_refused_by_name(tmp_path):
    paths = write(make(), tmp_path)
    paths[3].unlink()
    with pytest.raises(BadVolume, match=r"IM0004.dcm: \[dicom-damaged\]"):
        read_series(paths)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("five slices compressed with loss", "loss in 5 of 12 slices, by a ratio of up to 12.5"),
        ("compressed with loss, no ratio stated", "loss in 12 of 12 slices"),
        ("multi-frame compressed with loss", "loss in 12 of 12 slices, by a ratio of up to 10"),
    ],
)
def test_loss_is_told_in_slices_and_ratio(name, found, tmp_path):
    WARNED[name][0](tmp_path)
    (finding,) = read_series(files_below(tmp_path)).warnings
    assert finding.found == found


def test_fractions_are_told(tmp_path):
    LEGAL["slope of 0.1"](tmp_path / "fractions")
    LEGAL["plain"](tmp_path / "whole")
    assert read_series(files_below(tmp_path / "fractions")).fractions
    assert not read_series(files_below(tmp_path / "whole")).fractions


def test_decoders_print_nothing(tmp_path, capfd):
    for name in ("JPEG lossless, pixels spoilt", "JPEG 2000, header of the pixels spoilt", "last file empty"):
        BAD[name][0](tmp_path / name)
        look(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_itk_waits_for_the_first_dicom_file(tmp_path, monkeypatch):
    def no_itk():
        raise AssertionError("itk is not needed yet")

    monkeypatch.setattr(gdcm, "itk", no_itk)
    (tmp_path / "text").write_text("no DICOM")
    assert not is_dicom(tmp_path / "text")
    find_series([tmp_path / "text"])


def test_many_files_take_no_longer_each_than_few(monkeypatch):
    """Headers aside, 20 000 files in 40 folders and 200 series are sorted within seconds."""

    def header(path):
        number = int(os.path.basename(path))
        one = Slice(path, (0.0, 0.0, float(number)), AXIAL, (1.0, 1.0), 1.0, 0.0)
        return Header(path, uid=f"1.2.{number % 200}", modality="CT", slices=(one,), size=(512, 512))

    monkeypatch.setattr(find, "look", header)
    series, refused, skipped = find_series([f"/disk/{number % 40}/{number}" for number in range(20_000)])
    assert (len(series), refused, skipped) == (200, [], [])
    assert all(len(one.files) == 100 for one in series)


# -- real files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Unpacks an archive of real DICOM files."""

    def unpack(name):
        archive = REAL_DATA / f"{name}.tar.gz"
        if not archive.is_file():
            pytest.skip(f"{archive} is not there; set CTPA_VQGAN_DATA to the folder of the real data")
        folder = tmp_path_factory.mktemp(name)
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")
        return folder

    return unpack


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "hu"),
    [
        ("CIP-ct64_dicom", (64, 64, 79), (4.171872, 4.171872, 3.987337), (-1007, 1095)),
        ("LungDx-A0001-B_dicom", (512, 512, 64), (0.841797, 0.841797, 5.0), (-1024, 2976)),
        ("LungDx-A0002-B40f_dicom", (512, 512, 30), (0.646484, 0.646484, 8.0), (-1024, 1548)),
        ("TS-example_ct_dicom", (512, 512, 20), (0.976562, 0.976562, 2.0), (-1024, 1839)),
    ],
)
def test_real_series_are_found_whole(name, shape, spacing, hu, real):
    volumes, refused, skipped = look(real(name))
    (volume,) = volumes
    assert (refused, skipped) == ([], [])
    assert volume.voxels.shape == shape
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), spacing, atol=1e-5)
    assert (volume.voxels.min(), volume.voxels.max()) == hu


def test_a_real_series_equals_its_nrrd(real):
    import itk

    (volume,), _, _ = look(real("CIP-ct64_dicom"))
    image = itk.imread(str(REAL_DATA / "CIP-ct64.nrrd"))
    assert np.array_equal(volume.voxels, itk.array_from_image(image).T)
    lps = np.eye(4)
    lps[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    # the DICOM positions are rounded to 0.001 mm
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ lps, rtol=0, atol=1e-3)
