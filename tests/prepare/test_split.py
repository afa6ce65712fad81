"""Training and validation are divided by patient, and stay divided."""

import pytest

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.prepare.split import Patients, patient_key, split_patients

MANY = [patient_key(str(number)) for number in range(400)]


def held_out(sides):
    return {patient for patient, side in sides.items() if side == "validation"}


def test_about_the_asked_share_is_held_out():
    assert 60 < len(held_out(split_patients(MANY, 0.2, seed=0))) < 100


def test_nobody_changes_sides_when_others_are_added():
    few = split_patients(MANY[:50], 0.2, seed=0)
    assert split_patients(MANY, 0.2, seed=0).items() >= few.items()


def test_the_one_held_out_of_a_small_set_stays_when_the_sides_of_before_are_told():
    before = split_patients(MANY[:3], 0.01, seed=0)
    assert len(held_out(before)) == 1
    assert split_patients(MANY[:30], 0.01, seed=0, before=before).items() >= before.items()


def test_another_seed_divides_in_another_way():
    assert split_patients(MANY, 0.2, seed=0) != split_patients(MANY, 0.2, seed=1)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_both_sides_have_somebody(number, fraction):
    assert set(split_patients(MANY[:number], fraction, seed=0).values()) == {"training", "validation"}


def test_a_single_patient_is_for_training():
    assert split_patients(MANY[:1], 0.5, seed=0) == {MANY[0]: "training"}


def test_a_share_of_zero_holds_nobody_out():
    assert held_out(split_patients(MANY, 0.0, seed=0)) == set()


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct", "b/ct.nii.gz", "/a/b/ct.nii.gz"])
def test_a_row_matches_a_path_the_end_of_one_or_a_stem(tmp_path, name):
    (tmp_path / "who.csv").write_text(f"file,patient\n{name},P7\n")
    names = Patients(tmp_path / "who.csv")
    assert names.of("/a/b/ct.nii.gz") == "P7"
    assert names.unused() == []


def test_the_longest_matching_name_decides(tmp_path):
    (tmp_path / "who.csv").write_text("file,patient\nct.nii.gz,P1\nb/ct.nii.gz,P2\nnone.nii.gz,P3\n")
    names = Patients(tmp_path / "who.csv")
    assert names.of("/a/b/ct.nii.gz") == "P2"
    assert names.of("/a/c/ct.nii.gz") == "P1"
    assert names.of("/a/c/other.nii.gz") is None
    assert names.unused() == ["none.nii.gz"]


def test_a_table_with_other_columns_is_refused(tmp_path):
    (tmp_path / "who.csv").write_text("path;id\n")
    with pytest.raises(UserError, match="file and patient"):
        Patients(tmp_path / "who.csv")


def test_two_patients_for_one_file_are_refused(tmp_path):
    (tmp_path / "who.csv").write_text("file,patient\na,P1\na,P2\n")
    with pytest.raises(UserError, match="two patients for a"):
        Patients(tmp_path / "who.csv")


def test_a_table_in_another_encoding_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "who.csv").write_bytes("file,patient\nct,Müller\n".encode("latin-1"))
    with pytest.raises(UserError, match="save it as CSV in UTF-8"):
        Patients(tmp_path / "who.csv")
