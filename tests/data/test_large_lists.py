"""A hundred thousand volumes: the same order as ever, and work that grows with their number and not with its square."""

import numpy as np
import pytest

from ctpa_vqgan.data import find_cases, patch_dataset, patches, prepared_shape
from ctpa_vqgan.data.cases import EXPECTED
from ctpa_vqgan.data.patches import RandomPatchDataset
from ctpa_vqgan.data.prepared import shape_if_prepared, write_prepared
from ctpa_vqgan.errors import UserError


@pytest.fixture
def listed(monkeypatch):
    """A data set of cases without files, of which those named ``raw...`` are not prepared."""
    monkeypatch.setattr(patches, "is_prepared", lambda image: not image.startswith("raw"))

    def make(names, num_samples=3, volumes_in_memory=4, seed=7):
        cases = [{"image": name, "case": name} for name in names]
        return RandomPatchDataset(
            cases, None, lambda x: x, (8, 8, 8), num_samples, seed=seed, volumes_in_memory=volumes_in_memory
        )

    return make


def named(number, kind):
    """Names of cases: all raw, all prepared, or every third one raw."""
    raw = {"raw": lambda n: True, "prepared": lambda n: False, "mixed": lambda n: n % 3 == 0}[kind]
    return [f"{'raw' if raw(n) else 'prepared'}_{n}" for n in range(number)]


def order_by_looking_for_each_group(dataset, epoch):
    """The definition of the order. It looks through all patches for every group of raw volumes."""
    rng = np.random.RandomState(np.random.SeedSequence([dataset.seed, 0, epoch]).generate_state(4))
    cases = dataset.pairs[:, 0]
    is_raw = dataset.raw[cases]
    volumes = rng.permutation(np.flatnonzero(dataset.raw))
    groups = np.array_split(volumes, range(dataset.volumes_in_memory, len(volumes), dataset.volumes_in_memory))
    loaded = [rng.permutation(dataset.pairs[np.isin(cases, group)]) for group in groups]
    order = np.empty_like(dataset.pairs)
    places = rng.permutation(is_raw)
    order[places] = np.concatenate(loaded)
    order[~places] = rng.permutation(dataset.pairs[~is_raw])
    return order


@pytest.mark.parametrize("kind", ["raw", "prepared", "mixed"])
@pytest.mark.parametrize("number", [1, 4, 5, 23])
@pytest.mark.parametrize("volumes_in_memory", [1, 4])
def test_the_order_is_that_of_its_definition(listed, kind, number, volumes_in_memory):
    dataset = listed(named(number, kind), volumes_in_memory=volumes_in_memory)
    for epoch in (0, 1, 5):
        np.testing.assert_array_equal(dataset.epoch_order(epoch), order_by_looking_for_each_group(dataset, epoch))


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("raw", "40 41 11 10 30 31 00 01 50 20 51 21"),
        ("prepared", "00 31 01 21 41 20 51 30 40 50 10 11"),
        ("mixed", "50 31 00 11 01 41 51 40 30 21 10 20"),
    ],
)
def test_the_order_is_that_of_runs_in_progress(listed, kind, order):
    """Case and number of each patch as they were when trainings began that may be resumed."""
    found = listed(named(6, kind), num_samples=2, volumes_in_memory=2).epoch_order(1)
    assert " ".join(f"{case}{number}" for case, number in found.tolist()) == order


def test_cases_without_patches_change_nothing_for_the_others(listed):
    dataset = listed(named(6, "raw"), volumes_in_memory=2)
    dataset.pairs = dataset.pairs[np.isin(dataset.pairs[:, 0], (1, 4))]
    np.testing.assert_array_equal(dataset.epoch_order(0), order_by_looking_for_each_group(dataset, 0))
    assert set(dataset._candidates(3, 1)) == {1, 4}


class Seen(np.ndarray):
    """An array that counts the elements which are looked at, in it and in what is cut out of it."""

    elements = 0

    def __getitem__(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        Seen.elements += sum(part.size for part in keys if isinstance(part, np.ndarray))
        return super().__getitem__(key)

    def __array_ufunc__(self, ufunc, method, *given, **named):
        Seen.elements += sum(np.size(value) for value in given)
        return getattr(ufunc, method)(*map(np.asarray, given), **named)

    def __array_function__(self, function, types, given, named):
        Seen.elements += sum(value.size for value in given if isinstance(value, np.ndarray))
        return super().__array_function__(function, types, given, named)


def elements_seen(dataset, order_of):
    dataset.pairs, Seen.elements = dataset.pairs.view(Seen), 0
    order_of(dataset, 0)
    return Seen.elements


def test_the_order_of_ten_times_as_many_raw_volumes_takes_ten_times_the_work(listed):
    few, many = (listed(named(number, "raw")) for number in (40, 400))
    assert elements_seen(many, RandomPatchDataset.epoch_order) < 12 * elements_seen(few, RandomPatchDataset.epoch_order)
    # what would not do shows
    few, many = (listed(named(number, "raw")) for number in (40, 400))
    quadratic = [elements_seen(dataset, order_by_looking_for_each_group) for dataset in (few, many)]
    assert quadratic[1] > 50 * quadratic[0]


def test_an_epoch_takes_eight_bytes_a_patch_in_every_loader_process(listed):
    dataset = listed(named(50, "mixed"))
    assert dataset.epoch_order(0).nbytes == 8 * dataset.num_patches


def test_the_size_of_a_prepared_volume_takes_one_look_at_its_file(tmp_path, monkeypatch):
    cases = []
    for name in "ab":
        path = write_prepared(tmp_path / f"{name}.nii", np.zeros((9, 8, 7), np.int16), np.eye(4))
        cases.append({"image": str(path), "case": name})
    looks = []
    monkeypatch.setattr(patches, "shape_if_prepared", lambda path: looks.append(path) or shape_if_prepared(path))
    monkeypatch.setattr(patches, "is_prepared", lambda path: True)
    monkeypatch.setattr(patches, "volume_shape", None)
    dataset = patch_dataset(cases, None, lambda x: x, (8, 8, 8), (6, 6, 6), "grid")
    assert looks == [case["image"] for case in cases]
    assert len(dataset.windows[0]) == 2
    assert shape_if_prepared(cases[0]["image"]) == prepared_shape(cases[0]["image"]) == (9, 8, 7)
    assert shape_if_prepared(tmp_path / "nothing.nii") is None


@pytest.mark.parametrize("content", ["{}", '{"name": "a data set"}', '{"training": [], "validation": []}'])
def test_a_datalist_without_files_is_told_what_it_should_hold(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError) as error:
        find_cases(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'dataset.json'}: {EXPECTED}, found no file in any list; write the files to train on into it"
    )
