"""Patches are a function of the seed and their number: for any number of workers, and after any restart."""

import itertools
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from ctpa_vqgan.bundle import default_stride, overlap
from ctpa_vqgan.data import (
    grid_windows,
    load_volume,
    patch_dataset,
    patch_loader,
    prepare_patch,
    training_cases,
    write_prepared,
)
from ctpa_vqgan.data.loader import collate_patches
from ctpa_vqgan.data.unreadable import from_texts
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.ranks import Shard

WINDOW = (-1000.0, 1000.0)
PATCH, STRIDE = (12, 12, 8), (9, 9, 6)
SIZES = {"a": (20, 16, 10), "b": (12, 21, 14), "c": (9, 13, 7)}  # one with sides below the patch


def write_numbered(path, size, number):
    """A prepared volume whose every voxel says in which volume and where it lies."""
    index = np.arange(np.prod(size)).reshape(size) % 1701
    volume = (index - 900 + 50 * number).astype(np.int16)
    volume[0, 0, :2] = -2048, 1000
    return {"image": str(write_prepared(path, volume, np.eye(4))), "case": path.stem}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Three prepared volumes."""
    folder = tmp_path_factory.mktemp("volumes")
    return [write_numbered(folder / f"{name}.nii", size, n) for n, (name, size) in enumerate(SIZES.items())]


@pytest.fixture(scope="module")
def raw_cases(phantom_folder):
    """Three volumes as they come from a scanner."""
    return [{"image": str(path), "case": path.name[:-7]} for path in sorted(phantom_folder.glob("*.nii.gz"))]


def make(cases, sampling, flips=True, **options):
    options = {"num_samples": 5, "batch_size": 3, "seed": 7} | options
    return patch_dataset(cases, load_volume(), prepare_patch(WINDOW, flips), PATCH, STRIDE, sampling, **options)


def epoch(dataset, number=0, workers=0, batch_size=3):
    """All batches of one epoch."""
    dataset.start_at(number * dataset.num_patches)
    return list(patch_loader(dataset, batch_size, workers))


def flat(batches):
    """(sample number, case, patch) one by one."""
    return [
        (int(sample), case, image)
        for batch in batches
        for sample, case, image in zip(batch["sample"], batch["case"], batch["image"])
    ]


def assert_same(one, other):
    assert [entry[:2] for entry in one] == [entry[:2] for entry in other]
    for (*_, first), (*_, second) in zip(one, other):
        assert torch.equal(first, second)


# -- the grid ----------------------------------------------------------------------------------------------------------


def test_a_full_resolution_ctpa_has_54_windows():
    assert default_stride([256, 256, 128], [4, 4, 4]) == [192, 192, 96]
    assert default_stride([24, 24, 24], [4, 4, 8]) == [16, 16, 16]  # whole codes
    windows = grid_windows((512, 512, 604), (256, 256, 128), (192, 192, 96))
    assert len(windows) == 54
    assert [w[2].start for w in windows[:6]] == [0, 96, 192, 288, 384, 476]


@pytest.mark.parametrize(
    ("size", "patch", "stride"),
    [
        ((512, 512, 604), (256, 256, 128), (192, 192, 96)),
        ((40, 37, 50), (16, 12, 20), (12, 9, 15)),
        ((40, 16, 50), (16, 16, 20), (16, 8, 5)),
    ],
)
def test_the_grid_visits_the_windows_of_monais_sliding_window_inference(size, patch, stride):
    # every voxel of this volume without memory says where it lies along one axis: three such give a window's corner
    corners = []
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = size[axis]
        volume = torch.arange(size[axis], dtype=torch.float32).reshape(shape).expand(1, 1, *size)
        starts = []

        def look(window, starts=starts):
            starts.append(int(window[0, 0, 0, 0, 0]))
            return torch.zeros(1, 1, 1, 1, 1)  # what comes back is of no interest

        sliding_window_inference(volume, patch, 1, look, overlap(patch, stride), mode="constant")
        corners.append(starts)
    assert [tuple(s.start for s in window) for window in grid_windows(size, patch, stride)] == list(zip(*corners))


def test_a_side_below_the_patch_counts_as_padded_to_it():
    assert grid_windows((10, 30, 8), (16, 16, 8), (12, 12, 6)) == grid_windows((16, 30, 8), (16, 16, 8), (12, 12, 6))


def test_the_grid_covers_every_voxel(cases):
    dataset = make(cases, "grid")
    for name, windows in zip(SIZES, dataset.windows):
        seen = np.zeros([max(s, p) for s, p in zip(SIZES[name], PATCH)], bool)
        for window in windows:
            seen[window] = True
        assert seen.all()


def test_an_epoch_of_the_grid_is_every_window_once(cases):
    dataset = make(cases, "grid", flips=False)
    volumes = {case["case"]: padded(case) for case in cases}
    expected = [
        (case["case"], tuple(s.start for s in window)) for case, ws in zip(cases, dataset.windows) for window in ws
    ]
    found = []
    for _, name, image in flat(epoch(dataset)):
        corners = [w for w in dataset.windows[list(SIZES).index(name)] if same(volumes[name][(slice(None), *w)], image)]
        assert len(corners) == 1
        found.append((name, tuple(s.start for s in corners[0])))
    assert sorted(found) == sorted(expected)
    assert found != expected, "in shuffled order"


def padded(case):
    """The volume on the network's scale, at least a patch large, computed by hand."""
    voxels = np.asarray(nib.load(case["image"]).dataobj).astype(np.float32)
    missing = [(0, max(0, p - s)) for s, p in zip(voxels.shape, PATCH)]
    return torch.from_numpy(np.clip(np.pad(voxels, missing, constant_values=-1000), -1000, 1000) / 1000)[None]


def same(one, other):
    """Equal up to a tenth of a HU."""
    return bool(torch.allclose(one, other, atol=1e-4, rtol=0))


# -- one stream --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_the_stream_is_the_same_for_any_number_of_workers(cases, sampling):
    streams = [flat(epoch(make(cases, sampling), number=1, workers=workers)) for workers in (0, 1, 2, 4)]
    for stream in streams[1:]:
        assert_same(streams[0], stream)


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_raw_and_prepared_cases_give_one_stream_together(cases, raw_cases, sampling):
    mixed = [cases[0], raw_cases[0], cases[1], raw_cases[1]]
    streams = [flat(epoch(make(mixed, sampling, num_samples=3), workers=workers)) for workers in (0, 2)]
    assert_same(*streams)
    assert {case for _, case, _ in streams[0]} == {case["case"] for case in mixed}


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_batch_stays_as_it_was_while_later_ones_are_loaded(cases, sampling):
    """Loader processes write to the same memory again and again: what was handed over must be out of their reach."""
    dataset = make(cases, sampling, num_samples=12)
    expected = flat(epoch(dataset))
    dataset.start_at(0)
    kept = []
    for batch in patch_loader(dataset, 3, num_workers=2):
        kept.append((batch, batch["image"].clone()))
        time.sleep(0.02)  # loader processes are ahead
    for batch, then in kept:
        assert torch.equal(batch["image"], then)
    assert_same(flat([batch for batch, _ in kept]), expected)


def test_two_iterations_at_a_time_do_not_touch_each_other(cases):
    loaders = [patch_loader(make(cases, "random", seed=seed, num_samples=12), 3, num_workers=1) for seed in (0, 1)]
    both = list(zip(*loaders))
    for seed, batches in enumerate(zip(*both)):
        assert_same(flat(batches), flat(epoch(make(cases, "random", seed=seed, num_samples=12))))


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_samples_are_numbered_through_the_run(cases, sampling):
    dataset = make(cases, sampling)
    for number in range(2):
        first = number * dataset.num_patches
        assert [s for s, *_ in flat(epoch(dataset, number))] == list(range(first, first + dataset.num_patches))


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_stream_started_in_the_middle_is_the_tail_of_the_whole(cases, sampling):
    whole = flat(epoch(make(cases, sampling), number=2))
    dataset = make(cases, sampling)
    dataset.start_at(2 * dataset.num_patches + 6)
    assert_same(flat(patch_loader(dataset, 3)), whole[6:])


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_the_number_of_batches_is_known_before(cases, sampling):
    dataset = make(cases, sampling)
    assert len(epoch(dataset, batch_size=4)) == dataset.num_batches(4)


def test_random_patches_come_as_many_per_volume_as_asked(cases):
    drawn = [case for _, case, _ in flat(epoch(make(cases, "random", num_samples=4)))]
    assert sorted(drawn) == sorted([*SIZES] * 4)
    assert drawn != sorted(drawn), "patients are mixed"


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_the_cases_of_coming_samples_are_known_before(cases, sampling):
    dataset = make(cases, sampling)
    for batch in epoch(dataset, number=1):
        samples = range(batch["sample"][0], batch["sample"][-1] + 1)
        assert [case["case"] for case in dataset.cases_at(samples)] == [*dict.fromkeys(batch["case"])]


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_each_epoch_has_an_order_of_its_own(cases, sampling):
    dataset = make(cases, sampling)
    orders = [[case for _, case, _ in flat(epoch(dataset, number))] for number in range(4)]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_another_seed_gives_another_stream(cases, sampling):
    one, other = (flat(epoch(make(cases, sampling, seed=seed))) for seed in (0, 1))
    assert any(not torch.equal(a, b) for (*_, a), (*_, b) in zip(one, other))


def test_positions_are_drawn_anew_in_each_epoch(cases):
    dataset = make(cases[:1], "random", flips=False)
    one, other = (flat(epoch(dataset, number)) for number in (0, 1))
    assert any(not torch.equal(a, b) for (*_, a), (*_, b) in zip(one, other))


def test_nothing_is_drawn_from_the_global_generators(cases):
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    for sampling in ("random", "grid"):
        epoch(make(cases, sampling))
    assert (torch.rand(1), np.random.rand()) == expected


# -- patches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_patch_is_cut_from_its_volume_and_scaled_and_nothing_else(cases, sampling):
    volumes = {case["case"]: padded(case) for case in cases}
    for _, name, image in flat(epoch(make(cases, sampling, flips=False))):
        assert image.shape == (1, *PATCH)
        size = volumes[name].shape[1:]
        corners = itertools.product(*(range(s - p + 1) for s, p in zip(size, PATCH)))
        places = ((slice(None), *(slice(c, c + p) for c, p in zip(corner, PATCH))) for corner in corners)
        assert any(same(volumes[name][place], image) for place in places)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_batch_says_where_its_patches_were_cut(cases, sampling, workers):
    volumes = {case["case"]: padded(case) for case in cases}
    for batch in epoch(make(cases, sampling, flips=False), workers=workers):
        assert batch["position"].dtype == torch.int64
        assert batch["position"].shape == (len(batch["sample"]), 3)
        for name, position, image in zip(batch["case"], batch["position"].tolist(), batch["image"]):
            assert same(volumes[name][(slice(None), *(slice(x, x + p) for x, p in zip(position, PATCH)))], image)


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_position_is_that_before_flips(cases, sampling):
    plain, flipped = (epoch(make(cases, sampling, flips=flips)) for flips in (False, True))
    for one, other in zip(plain, flipped, strict=True):
        assert torch.equal(one["position"], other["position"])
    assert any(not torch.equal(one["image"], other["image"]) for one, other in zip(plain, flipped))


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_volume_below_the_patch_is_padded_with_air(cases, sampling):
    patches = [image for _, _, image in flat(epoch(make(cases[2:], sampling, flips=False)))]
    assert patches
    for image in patches:
        assert image.shape == (1, *PATCH)
        assert (image[:, 9:] == -1).all()
        assert (image[:, :, :, 7:] == -1).all()
        assert (image[:, 1:9, :12, :7] > -1).any()


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_scanner_padding_is_air_in_a_patch(cases, sampling):
    for _, _, image in flat(epoch(make(cases, sampling))):
        assert image.min() >= -1


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_patches_are_plain_float32_tensors(cases, sampling):
    for item in make(cases, sampling) if sampling == "grid" else [make(cases, sampling)[0]]:
        assert type(item["image"]) is torch.Tensor
        assert item["image"].dtype == torch.float32
        assert set(item) == {"image", "case", "sample", "position", "unreadable"}
        assert item["unreadable"] == ""


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_patch_does_not_keep_its_volume_alive(cases, sampling):
    dataset = make(cases, sampling)
    for item in dataset if sampling == "grid" else [dataset[number] for number in range(5)]:
        assert item["image"].untyped_storage().nbytes() == 4 * np.prod(PATCH)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_batches_keep_the_order_of_the_file(cases, sampling, workers):
    for batch in epoch(make(cases, sampling), workers=workers):
        assert type(batch["image"]) is torch.Tensor
        assert batch["image"].shape[1:] == (1, *PATCH)
        assert batch["image"].stride()[2:] == (1, 12, 144), "x fastest: nothing was transposed"


@pytest.mark.parametrize("workers", [0, 1])
def test_patches_of_another_kind_are_collated_too(cases, workers):
    dataset = patch_dataset(cases, load_volume(), lambda patch: patch, PATCH, STRIDE, num_samples=4)  # int16, metadata
    expected = np.stack([dataset[number]["image"] for number in range(3)])
    batch = next(iter(patch_loader(dataset, 3, workers)))
    np.testing.assert_array_equal(batch["image"], expected)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("page_locked", [False, True])
def test_images_are_page_locked_where_that_is_asked_for(monkeypatch, cases, workers, page_locked):
    """For CUDA; a machine without it cannot lock pages, so what would is watched."""
    locked, really_empty = [], torch.empty

    def empty(*size, pin_memory=False, **options):
        locked.extend([True] * pin_memory)
        return really_empty(*size, **options)

    plain = epoch(make(cases, "random"), workers=workers)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: locked.append(True) or self)
    found = list(patch_loader(make(cases, "random"), 3, workers, page_locked))
    assert len(locked) == len(found) * page_locked
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(plain, found))
    assert found[0]["image"].stride() == plain[0]["image"].stride()


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_loader_process_makes_patches_where_the_batch_will_be(cases, sampling):
    expected = flat(epoch(make(cases, sampling)))
    dataset = make(cases, sampling)
    dataset.shared = torch.empty(100, 3, 1, *reversed(PATCH))
    items = list(dataset) if sampling == "grid" else [dataset[number] for number in range(dataset.num_patches)]
    for number, (item, (*_, image)) in enumerate(zip(items, expected, strict=True)):
        assert item["image"].data_ptr() == dataset.shared[number // 3, number % 3].data_ptr()
        assert torch.equal(item["image"], image)


def test_a_view_is_cut_loose_from_its_volume(cases):
    patch = patch_dataset(cases, load_volume(), lambda patch: patch, PATCH, STRIDE, num_samples=4)[0]["image"]
    assert patch.untyped_storage().nbytes() == 2 * np.prod(PATCH)


def test_collating_is_stacking(cases):
    samples = [make(cases, "random")[number] for number in range(4)]
    batch = collate_patches(samples)
    assert torch.equal(batch["image"], torch.stack([sample["image"] for sample in samples]))
    assert batch["sample"].tolist() == [0, 1, 2, 3]
    assert batch["case"] == [sample["case"] for sample in samples]


# -- volumes in memory -------------------------------------------------------------------------------------------------


def counting(load, read):
    """A loading transform that takes notes."""

    def load_and_count(item):
        read.append(item["image"])
        return load(item)

    return load_and_count


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_raw_volume_is_read_once_per_epoch(raw_cases, sampling):
    read = []
    loading = counting(load_volume(), read)
    dataset = patch_dataset(raw_cases, loading, prepare_patch(WINDOW), (32, 32, 16), (24, 24, 12), sampling, 5)
    epoch(dataset)
    assert sorted(read) == [case["image"] for case in raw_cases]


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_prepared_volume_is_mapped_for_each_patch_and_not_kept(cases, sampling):
    read = []
    dataset = patch_dataset(cases, counting(load_volume(), read), prepare_patch(WINDOW), PATCH, STRIDE, sampling, 5)
    epoch(dataset)
    assert len(read) == dataset.num_patches
    assert not dataset.volumes


def test_raw_volumes_beyond_those_in_memory_are_let_go(raw_cases):
    dataset = make(raw_cases, "random")
    dataset.volumes.capacity = dataset.volumes_in_memory = 1
    held = set()
    for batch in patch_loader(dataset, 1):
        held.add(len(dataset.volumes))
        assert batch["image"].shape == (1, 1, *PATCH)
    assert held == {1}


def test_raw_volumes_come_in_groups_and_prepared_ones_anywhere(cases, raw_cases):
    def spans(dataset):
        """From the first to the last patch of each volume, as a share of the epoch."""
        order = dataset.epoch_order(0)[:, 0]
        return [np.ptp(np.flatnonzero(order == case)) / len(order) for case in range(len(dataset.cases))]

    raw = make(raw_cases, "random", num_samples=40)
    raw.volumes_in_memory = 1
    assert max(spans(raw)) < 0.34, "one after the other"
    mapped = make(cases, "random", num_samples=40)
    mapped.volumes_in_memory = 1
    assert min(spans(mapped)) > 0.8


def test_raw_files_are_worth_a_word(cases, raw_cases):
    assert make(cases, "random").notice() == ""
    notice = make(raw_cases[:2] + cases[:1], "random").notice()
    assert notice.startswith("2 of 3 training files are not prepared:")
    assert "ctpa_vqgan prepare" in notice
    assert "identify patients" in notice


# -- files that break --------------------------------------------------------------------------------------------------


@pytest.fixture
def breaking(tmp_path):
    """Four prepared volumes, of which the second is cut short."""
    sizes = [(20, 16, 10), (14, 21, 14), (16, 13, 9), (13, 12, 8)]
    found = [write_numbered(tmp_path / f"{n}.nii", size, n) for n, size in enumerate(sizes)]
    cut_short(found[1])
    return found


def cut_short(case):
    with open(case["image"], "r+b") as file:
        file.truncate(1000)


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_patches_of_a_broken_file_are_replaced_and_the_batch_says_why(breaking, sampling):
    dataset = make(breaking, sampling)
    before = dataset.epoch_order(0)[:, 0]
    batches = epoch(dataset)
    assert len(flat(batches)) == dataset.num_patches
    for (sample, case, image), planned in zip(flat(batches), before):
        assert image.shape == (1, *PATCH)
        assert case != "1" and (planned == 1 or case == str(planned)), "others are as they were"
        assert sample == int(sample)
    told = [from_texts(batch["unreadable"]) for batch in batches]
    (found,) = [entry for entries in told for entry in entries]
    assert (found.path, found.rule) == (breaking[1]["image"], "payload")
    assert found.message.startswith(f"{found.path}: [payload] expected")
    first = int(np.flatnonzero(before == 1)[0]) // 3
    assert told[first], "with the first batch that should have had it"


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_broken_file_gives_the_same_stream_for_any_number_of_workers(breaking, sampling):
    streams = [flat(epoch(make(breaking, sampling), number=1, workers=workers)) for workers in (0, 1, 2, 4)]
    for stream in streams[1:]:
        assert_same(streams[0], stream)


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_knowing_a_broken_file_before_changes_no_patch(breaking, sampling):
    dataset = make(breaking, sampling)
    first = flat(epoch(dataset))
    assert list(dataset.unreadable) == [breaking[1]["image"]]
    again = epoch(dataset)
    assert_same(first, flat(again))
    assert not any(text for batch in again for text in batch["unreadable"]), "told once"


def test_a_broken_file_is_tried_once(breaking):
    read = []
    dataset = patch_dataset(
        breaking, counting(load_volume(), read), prepare_patch(WINDOW), PATCH, STRIDE, num_samples=5
    )
    epoch(dataset)
    assert read.count(breaking[1]["image"]) == 1


def test_replacements_are_spread_over_the_other_cases(breaking):
    dataset = make(breaking, "random", num_samples=30)
    planned = dataset.epoch_order(0)[:, 0]
    instead = [case for (_, case, _), case_planned in zip(flat(epoch(dataset)), planned) if case_planned == 1]
    assert set(instead) == {"0", "2", "3"}


def test_a_file_that_vanishes_is_a_broken_file(breaking):
    dataset = make(breaking, "random")
    Path(breaking[2]["image"]).unlink()
    assert {case for _, case, _ in flat(epoch(dataset))} == {"0", "3"}
    assert dataset.unreadable[breaking[2]["image"]].rule == "unreadable"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_disk_is_no_bug_and_a_bug_is_no_error_of_the_disk(breaking, workers):
    def failing(error):
        def load(item):
            if item["image"] == breaking[0]["image"]:
                raise error
            return load_volume()(item)

        return patch_dataset(breaking, load, prepare_patch(WINDOW), PATCH, STRIDE, num_samples=5)

    assert {case for _, case, _ in flat(epoch(failing(OSError(5, "Input/output error")), workers=workers))} == {
        "2",
        "3",
    }
    with pytest.raises(ZeroDivisionError):
        epoch(failing(ZeroDivisionError("a bug")), workers=workers)


@pytest.mark.parametrize(("sampling", "workers"), [("random", 0), ("grid", 0), ("grid", 1)])
def test_no_readable_case_at_all_ends_with_the_reason(breaking, sampling, workers):
    dataset = make(breaking, sampling)
    for case in breaking:
        cut_short(case)
    with pytest.raises(UserError, match=r"payload(.|\n)*no other training case is left"):
        epoch(dataset, workers=workers)


def test_a_grid_does_without_a_case_whose_size_cannot_be_read(breaking):
    Path(breaking[3]["image"]).write_bytes(b"rubbish")
    dataset = make(breaking, "grid")
    assert [len(windows) > 0 for windows in dataset.windows] == [True, True, True, False]
    assert {case for _, case, _ in flat(epoch(dataset))} == {"0", "2"}
    for case in breaking:
        Path(case["image"]).write_bytes(b"rubbish")
    with pytest.raises(UserError, match="no other training case is left"):
        make(breaking, "grid")


# -- options -----------------------------------------------------------------------------------------------------------


def test_an_unknown_sampling_is_refused_with_the_choice(cases):
    with pytest.raises(UserError, match="patch_sampling: expected 'random' or 'grid', found 'all'"):
        make(cases, "all")


def test_training_cases_feed_the_dataset(cases, tmp_path):
    for case in cases:
        (tmp_path / f"{case['case']}.nii").symlink_to(case["image"])
    dataset = make(training_cases(tmp_path), "random")
    assert dataset.num_patches == 2 * 5, "one of three is held out"


# -- several ranks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_ranks_share_each_batch_of_the_one_stream(cases, sampling, workers):
    """Thirteen patches a batch; the last batch of an epoch has fewer than there are ranks."""
    whole = epoch(make(cases, sampling, batch_size=13), number=1, batch_size=13)
    assert len(whole[-1]["sample"]) in (1, 2)
    shared = []
    for index in range(3):
        dataset = make(cases, sampling, batch_size=13)
        loader = patch_loader(dataset, 13, workers, shard=Shard(index, 3))
        dataset.start_at_batch(1, 0)
        shared.append(list(loader))
    for number, batch in enumerate(whole):
        parts = [part[number] for part in shared]
        assert torch.cat([part["sample"] for part in parts]).tolist() == batch["sample"].tolist()
        assert torch.equal(torch.cat([part["image"] for part in parts]), batch["image"])
        assert torch.equal(torch.cat([part["position"] for part in parts]), batch["position"])
        assert [case for part in parts for case in part["case"]] == batch["case"]
    assert {len(batches) for batches in shared} == {len(whole)}, "as many steps for every rank"
    assert shared[2][-1]["image"].shape == (0, 1, *PATCH)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_another_number_of_ranks_goes_on_in_the_middle_of_an_epoch(cases, sampling, workers):
    whole = epoch(make(cases, sampling, batch_size=3))
    rest = []
    for index in range(2):
        dataset = make(cases, sampling)
        loader = patch_loader(dataset, 3, workers, shard=Shard(index, 2))
        dataset.start_at_batch(0, 2)
        rest.append(list(loader))
    for batch, first, second in zip(whole[2:], *rest, strict=True):
        assert torch.cat([first["sample"], second["sample"]]).tolist() == batch["sample"].tolist()


def test_more_ranks_than_patches_in_a_batch_are_refused(cases):
    with pytest.raises(UserError, match=r"batch_size: expected at least a patch for each of 4 processes .+ found 3"):
        patch_loader(make(cases, "random"), 3, shard=Shard(0, 4))
