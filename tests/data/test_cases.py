"""Which volumes a data set holds, and which of them are held out."""

import hashlib
import json
import logging

import pytest

from ctpa_vqgan.data import find_cases, training_cases, validation_cases
from ctpa_vqgan.errors import UserError


@pytest.fixture
def flat_folder(tmp_path):
    """Makes a folder of empty files: a search for cases opens none of them."""

    def make(*names):
        for name in names:
            (tmp_path / name).touch()
        return tmp_path

    return make


def names(cases):
    return [case["case"] for case in cases]


def many(count):
    return [f"patient_{number:03d}.nii.gz" for number in range(count)]


def test_one_file_is_one_case(flat_folder):
    path = flat_folder("chest.nii.gz") / "chest.nii.gz"
    assert find_cases(path) == [{"image": str(path), "case": "chest"}]


def test_a_flat_folder_holds_a_case_per_volume_in_the_order_of_names(flat_folder):
    folder = flat_folder("b.nii", "c.NRRD", "a.nii.gz", "d.mha", "notes.txt", "e.seg.nii.gz")
    assert names(find_cases(folder)) == ["a", "b", "c", "d", "e.seg"]


def test_hidden_files_are_no_cases(flat_folder):
    assert names(find_cases(flat_folder("a.nii.gz", "._a.nii.gz", ".123.b.nii.gz"))) == ["a"]


@pytest.fixture
def datalist(tmp_path):
    (tmp_path / "images").mkdir()
    content = {
        "name": "a text among the sections",
        "training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}, {"image": "images/b.nii.gz"}],
        "validation": [{"image": "images/c.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def test_a_datalist_says_which_cases_are_held_out(datalist):
    assert names(training_cases(datalist, val_fraction=0.9)) == ["a", "b"]
    assert names(validation_cases(datalist, val_fraction=0.9)) == ["c"]


def test_a_datalist_is_found_by_its_folder_or_its_name(datalist):
    assert find_cases(datalist) == find_cases(datalist / "dataset.json")
    assert names(find_cases(datalist)) == ["a", "b", "c"]
    assert names(find_cases(datalist, section="validation")) == ["c"]
    assert find_cases(datalist)[0]["image"] == str(datalist / "images/a.nii.gz")


def test_every_case_is_on_one_side_of_the_split(flat_folder):
    folder = flat_folder(*many(50))
    training, validation = training_cases(folder, 0.2), validation_cases(folder, 0.2)
    assert sorted(names(training) + names(validation)) == names(find_cases(folder))
    assert 5 <= len(validation) <= 15  # about a fifth of 50


def test_the_side_of_a_case_is_a_hash_of_its_name(flat_folder):
    folder = flat_folder(*many(50))

    def share(name):
        return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64

    expected = [name for name in names(find_cases(folder)) if share(name) < 0.2]
    assert names(validation_cases(folder, 0.2)) == expected


def test_new_cases_leave_the_others_on_their_side(flat_folder):
    before = names(validation_cases(flat_folder(*many(30)), 0.2))
    after = names(validation_cases(flat_folder(*many(60)), 0.2))
    assert set(before) <= set(after)
    assert set(after) - set(before) <= {name.removesuffix(".nii.gz") for name in many(60)[30:]}


def test_the_split_does_not_depend_on_where_the_files_lie(flat_folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for name in many(20):
        (other / name).touch()
    assert names(validation_cases(flat_folder(*many(20)), 0.2)) == names(validation_cases(other, 0.2))


@pytest.mark.parametrize("val_fraction", [0.0, 0.001, 0.99])
def test_at_least_one_case_is_held_out_and_one_is_left(flat_folder, val_fraction):
    folder = flat_folder(*many(3))
    assert len(validation_cases(folder, val_fraction)) >= 1
    assert len(training_cases(folder, val_fraction)) >= 1


def test_a_new_case_never_moves_a_training_case_into_a_small_validation_set(flat_folder):
    training = names(training_cases(flat_folder(*many(3)), 0.0))
    for count in range(4, 12):
        assert not set(training) & set(names(validation_cases(flat_folder(*many(count)), 0.0)))


def test_a_single_case_serves_both_sides_and_the_log_says_so_once(flat_folder, caplog):
    folder = flat_folder("only.nii.gz")
    with caplog.at_level(logging.WARNING):
        assert names(training_cases(folder)) == names(validation_cases(folder)) == ["only"]
    assert [record.message for record in caplog.records] == [
        "no case is held out: those for training serve for validation too, so the scores flatter"
    ]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_missing_folder_is_named_with_a_way_out(tmp_path):
    with pytest.raises(UserError) as error:
        find_cases(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in one_line(error)
    assert "give a CT volume, a folder of volumes or a dataset.json" in one_line(error)


def test_an_empty_folder_is_named_with_what_was_expected(flat_folder):
    folder = flat_folder("notes.txt", ".hidden.nii.gz")
    with pytest.raises(UserError) as error:
        training_cases(folder)
    assert one_line(error).startswith(f"{folder}: holds no volume; expected DICOM, or files that end in .nii")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"training": [{"label": "a.nii.gz"}]}', '{"validation": []}', '{"training": 3}']
)
def test_a_datalist_that_is_none_is_named_with_the_form_expected(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError) as error:
        find_cases(tmp_path, "training")
    assert one_line(error).startswith(f"{tmp_path / 'dataset.json'}: expected a MONAI datalist")


def test_an_empty_section_is_named(tmp_path):
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "a.nii.gz"}], "validation": []}')
    with pytest.raises(UserError, match="expected files in the list 'validation', found none"):
        find_cases(tmp_path, "validation")


def test_where_the_datalist_holds_nobody_out_training_cases_serve_twice(tmp_path, caplog):
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "a.nii.gz"}], "validation": []}')
    assert names(validation_cases(tmp_path)) == names(training_cases(tmp_path)) == ["a"]
    assert "no case is held out" in caplog.text


def test_folders_are_searched_in_any_nesting_and_name_what_a_stem_does_not(tmp_path):
    for name in ("s1/ct.nii.gz", "s2/ct.nii.gz", "s2/deep/down/ct.nrrd", "s2/.hidden/ct.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(find_cases(tmp_path)) == ["down_ct", "s1_ct", "s2_ct"]
    assert names(find_cases(tmp_path / "s2/deep")) == ["ct"]


def test_two_files_of_one_case_name_are_refused(flat_folder):
    with pytest.raises(UserError) as error:
        find_cases(flat_folder("a.nii", "a.nii.gz", "b.nii"))
    assert "a.nii.gz: has the same case name as" in one_line(error)
    assert "rename one of them" in one_line(error)


@pytest.mark.parametrize("val_fraction", [-0.1, 1.0, 2])
def test_a_fraction_that_is_none_is_refused(flat_folder, val_fraction):
    with pytest.raises(UserError, match="val_fraction: expected at least 0 and less than 1"):
        training_cases(flat_folder(*many(3)), val_fraction)
