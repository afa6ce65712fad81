"""Volumes to code files and back: the same grid, the same voxels as exact tiles give, and nothing done twice."""

import json
import math
import os
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ctpa_vqgan.data import find_cases, load_volume, to_hu
from ctpa_vqgan.errors import Stopped, UserError
from ctpa_vqgan.files import in_turn
from ctpa_vqgan.inferers import ExactTileInferer, exact
from ctpa_vqgan.networks import VQGAN, make_quantizer
from ctpa_vqgan.precision import full_precision
from ctpa_vqgan.ranks import Shard
from ctpa_vqgan.tokens import EncodedVolume
from ctpa_vqgan.transcode import decode_files, encode_cases

WINDOW = (-1000.0, 1000.0)
TILES = ExactTileInferer((32, 32, 16))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = VQGAN(channels=(4, 8), num_embeddings=48, embedding_dim=3).eval()
    with torch.no_grad():  # codes among the latents, so that all of them are used
        latents = net.encode(torch.rand(1, 1, 32, 32, 32) * 2 - 1).movedim(1, -1).flatten(0, -2)
        net.quantizer.embedding.copy_(latents[:48])
    return net


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.n*")}


@pytest.fixture
def codes(phantom_folder, network, tmp_path) -> Path:
    encode_cases(find_cases(phantom_folder), network, tmp_path / "codes", WINDOW, TILES, progress=False)
    return tmp_path / "codes"


def test_there_and_back_is_what_exact_tiles_decode_to(phantom_folder, codes, network, tmp_path):
    decode_files(codes, network, tmp_path / "back", TILES, progress=False)
    for case in find_cases(phantom_folder):
        hu = load_volume()({"image": case["image"]})["image"]
        expected = to_hu(TILES(((hu.as_tensor().float() + 1000) / 1000 - 1).clamp(-1, 1)[None], network), WINDOW)[0, 0]
        source, back = nib.load(case["image"]), nib.load(tmp_path / f"back/{case['case']}_decoded.nii.gz")
        assert back.get_data_dtype() == np.int16
        assert back.shape == source.shape
        np.testing.assert_allclose(back.affine, source.affine, atol=1e-4)
        turned = nib.as_closest_canonical(back)
        np.testing.assert_array_equal(np.asarray(turned.dataobj), expected.numpy())


def oblique_affine(axes: str, rng: np.random.Generator) -> np.ndarray:
    """Voxel axes that point to ``axes``, tilted by some degrees."""
    tilt = np.linalg.qr(np.eye(3) + rng.uniform(-0.15, 0.15, (3, 3)))[0]
    tilt *= np.sign(np.diag(tilt))
    order = nib.orientations.axcodes2ornt(axes)
    turn = nib.orientations.inv_ornt_aff(order, (2, 2, 2))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.linalg.inv(turn) @ np.diag(rng.uniform(0.6, 3, 3))
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


def test_twenty_orientations_come_back_on_their_grids(phantom, network, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        axes = "".join(rng.choice(list(pair)) for pair in rng.permutation(["RL", "AP", "SI"]))
        sides = rng.permutation([36, 34, 33])
        voxels = np.asarray(phantom.volume)[: sides[0], : sides[1], 4 : 4 + sides[2]]
        voxels = voxels.transpose(nib.orientations.axcodes2ornt(axes)[:, 0].astype(int))
        (tmp_path / "in").mkdir(exist_ok=True)
        affine = oblique_affine(axes, rng)
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / f"in/{number:02d}.nii")
    encode_cases(
        find_cases(tmp_path / "in"), network, tmp_path / "codes", WINDOW, TILES, max_error_hu=0, progress=False
    )
    decode_files(tmp_path / "codes", network, tmp_path / "out", progress=False)
    for path in sorted((tmp_path / "in").iterdir()):
        source, back = nib.load(path), nib.load(tmp_path / f"out/{path.stem}_decoded.nii.gz")
        assert back.shape == source.shape
        assert nib.aff2axcodes(back.affine) == nib.aff2axcodes(source.affine)
        np.testing.assert_allclose(back.affine, source.affine, atol=1e-3)
        # lossless, so that a flip or a turn would show
        np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(source.dataobj))


@pytest.mark.parametrize("bound", [0, 5, 20])
def test_no_voxel_is_farther_from_the_file_than_promised(phantom_folder, network, tmp_path, bound):
    case = find_cases(phantom_folder)[0]
    encode_cases([case], network, tmp_path / "codes", WINDOW, TILES, max_error_hu=bound, progress=False)
    decode_files(tmp_path / "codes", network, tmp_path / "back", progress=False)
    source = np.asarray(nib.load(case["image"]).dataobj).astype(int)
    back = np.asarray(nib.load(tmp_path / f"back/{case['case']}_decoded.nii.gz").dataobj).astype(int)
    assert source.min() < WINDOW[0], "scanner padding lies outside the window"
    assert np.abs(back - source).max() <= bound


def test_a_decoder_that_gives_other_voxels_is_refused(phantom_folder, network, tmp_path, monkeypatch):
    encode_cases(
        find_cases(phantom_folder)[:1], network, tmp_path / "codes", WINDOW, TILES, max_error_hu=5, progress=False
    )
    real = ExactTileInferer.decode

    def another_device(*args, **kwargs):
        out = real(*args, **kwargs)
        out[0, 0, 0, 0, 0] += 1
        return out

    monkeypatch.setattr(ExactTileInferer, "decode", another_device)
    with pytest.raises(UserError, match="SHA-256"):
        decode_files(tmp_path / "codes", network, tmp_path / "back", progress=False)
    assert not list((tmp_path / "back").glob("*.nii.gz"))


def test_what_is_done_is_not_done_again(phantom_folder, codes, network, tmp_path):
    before = snapshot(codes)
    rows = encode_cases(find_cases(phantom_folder), network, codes, WINDOW, TILES, progress=False)
    assert snapshot(codes) == before
    assert [row["seconds"] for row in rows] == [None] * 3
    decode_files(codes, network, tmp_path / "back", TILES, progress=False)
    decoded = snapshot(tmp_path / "back")
    decode_files(codes, network, tmp_path / "back", TILES, progress=False)
    assert snapshot(tmp_path / "back") == decoded


def test_other_settings_a_newer_volume_and_a_damaged_file_are_done_again(phantom_folder, codes, network, tmp_path):
    folder = tmp_path / "volumes"
    shutil.copytree(phantom_folder, folder)
    cases = find_cases(folder)
    encode_cases(cases, network, codes, WINDOW, TILES, progress=False)
    first, second, third = sorted(codes.glob("*.npz"))
    before = snapshot(codes)
    os.utime(cases[0]["image"], (2**31, 2**31))
    second.write_bytes(second.read_bytes()[:-40])
    encode_cases(cases, network, codes, WINDOW, TILES, progress=False)
    after = snapshot(codes)
    assert (after[first.name] == before[first.name], after[third.name] == before[third.name]) == (False, True)
    EncodedVolume.load(second)
    encode_cases(cases, network, codes, (-1024.0, 1000.0), TILES, progress=False)
    assert snapshot(codes)[third.name] != after[third.name]


def test_codes_of_another_network_are_refused_by_name(codes, tmp_path):
    other = VQGAN(channels=(4, 8), num_embeddings=48, embedding_dim=3).eval()
    with pytest.raises(UserError, match=r"phantom_00\.npz.*codes of the network"):
        decode_files(codes, other, tmp_path / "back", progress=False)


def test_latents_come_with_their_mean_and_deviation_over_all_cases(phantom_folder, network, tmp_path):
    cases = find_cases(phantom_folder)
    encode_cases(cases, network, tmp_path / "codes", WINDOW, TILES, latents=True, progress=False)
    files = [EncodedVolume.load(path) for path in sorted((tmp_path / "codes").glob("*.npz"))]
    values = np.concatenate([file.latents.reshape(3, -1) for file in files], axis=1).astype(float)
    for file in files:
        np.testing.assert_allclose(file.latent_mean, values.mean(axis=1), atol=1e-5)
        np.testing.assert_allclose(file.latent_std, values.std(axis=1), rtol=1e-4)
    before = snapshot(tmp_path / "codes")
    encode_cases(cases, network, tmp_path / "codes", WINDOW, TILES, latents=True, progress=False)
    assert snapshot(tmp_path / "codes") == before


def shard(text: str) -> Shard:
    return Shard.of(text)


def without_seconds(path: Path) -> list[dict]:
    return [row | {"seconds": None} for row in json.loads(path.read_text())["cases"]]


def test_ranks_of_torchrun_share_the_cases(phantom_folder, codes, network, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        rows = encode_cases(find_cases(phantom_folder), network, tmp_path / "shared", WINDOW, TILES, progress=False)
        shares.append({row["case"] for row in rows})
    assert shares == [{"phantom_00", "phantom_02"}, {"phantom_01"}]
    for path in codes.glob("*.npz"):
        assert (tmp_path / "shared" / path.name).read_bytes() == path.read_bytes()
    assert without_seconds(tmp_path / "shared/encode.json") == without_seconds(codes / "encode.json")


def test_shards_leave_the_files_and_the_summary_of_one_process_in_any_order(phantom_folder, network, tmp_path, capsys):
    cases, how = find_cases(phantom_folder), {"tiles": TILES, "latents": True, "progress": False}
    encode_cases(cases, network, tmp_path / "alone", WINDOW, **how)
    capsys.readouterr()
    for part in ("3/3", "1/3", "2/3"):
        encode_cases(cases, network, tmp_path / "shared", WINDOW, shard=shard(part), **how)
    told = capsys.readouterr().out
    assert told.count("of 3 cases are done; the rest is for other shards") == 2
    assert "shard 2/3: 1 cases\n3 cases, mean:" in told
    assert without_seconds(tmp_path / "shared/encode.json") == without_seconds(tmp_path / "alone/encode.json")
    for path in (tmp_path / "alone").glob("*.npz"):
        assert (tmp_path / "shared" / path.name).read_bytes() == path.read_bytes(), "with the same statistics"


def test_shards_that_end_together_lose_no_row_and_write_no_statistics_twice(
    phantom_folder, network, tmp_path, monkeypatch
):
    cases, written = find_cases(phantom_folder), []
    save = EncodedVolume.save
    monkeypatch.setattr(EncodedVolume, "save", lambda self, path: (written.append(path), save(self, path)))
    both = threading.Barrier(3)

    def together(folder, shard):
        both.wait(timeout=30)  # all have done their cases and none has merged
        return in_turn(folder, shard)

    monkeypatch.setattr("ctpa_vqgan.transcode.encode.in_turn", together)

    def work(part):
        how = {"tiles": TILES, "latents": True, "progress": False}
        return encode_cases(cases, network, tmp_path, WINDOW, shard=shard(part), **how)

    # around the threads, which would put back what others of them have set
    with full_precision(), ThreadPoolExecutor() as pool:
        assert [len(rows) for rows in pool.map(work, ("1/3", "2/3", "3/3"))] == [1, 1, 1]
    assert [row["case"] for row in without_seconds(tmp_path / "encode.json")] == [case["case"] for case in cases]
    assert Counter(path.name for path in written) == {f"{case['case']}.npz": 2 for case in cases}, "codes, statistics"


def test_a_killed_shard_goes_on_and_one_of_other_settings_does_not_count(phantom_folder, network, tmp_path, capsys):
    cases = find_cases(phantom_folder)
    encode_cases(cases[2:], network, tmp_path, (-1024.0, 1000.0), TILES, progress=False)  # to be made anew
    encode_cases(cases, network, tmp_path, WINDOW, TILES, progress=False, shard=shard("2/2"))
    assert "1 of 3 cases are done" in capsys.readouterr().out
    encode_cases(cases[:1], network, tmp_path / "killed", WINDOW, TILES, progress=False)
    shutil.copy(tmp_path / "killed/phantom_00.npz", tmp_path)  # what a killed process left of shard 1
    before = snapshot(tmp_path)["phantom_00.npz"]
    rows = encode_cases(cases, network, tmp_path, WINDOW, TILES, progress=False, shard=shard("1/2"))
    assert [row["seconds"] is None for row in rows] == [True, False]
    assert snapshot(tmp_path)["phantom_00.npz"] == before
    assert len(without_seconds(tmp_path / "encode.json")) == 3


def test_a_share_without_cases_ends_well(phantom_folder, network, tmp_path, capsys):
    cases = find_cases(phantom_folder)[:2]
    for part in ("3/3", "1/3", "2/3"):
        encode_cases(cases, network, tmp_path / "codes", WINDOW, TILES, progress=False, shard=shard(part))
    assert "shard 3/3: no case is left for it\n0 of 2 cases are done" in capsys.readouterr().out
    assert decode_files(tmp_path / "codes", network, tmp_path / "back", TILES, progress=False, shard=shard("3/3")) == []


def test_shards_decode_what_one_process_decodes(codes, network, tmp_path):
    (codes / ".4321.phantom_00.npz").write_bytes(b"a file in the making")
    decode_files(codes, network, tmp_path / "alone", TILES, progress=False)
    for part in ("2/2", "1/2"):
        decode_files(codes, network, tmp_path / "shared", TILES, progress=False, shard=shard(part))
    assert without_seconds(tmp_path / "shared/decode.json") == without_seconds(tmp_path / "alone/decode.json")
    for path in (tmp_path / "alone").glob("*.nii.gz"):
        assert (tmp_path / "shared" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture
def mixed(phantom_folder, tmp_path) -> Path:
    """Three volumes, of which the second is damaged."""
    shutil.copytree(phantom_folder, tmp_path / "mixed")
    path = tmp_path / "mixed/phantom_01.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    return tmp_path / "mixed"


def refused(path: Path) -> list[str]:
    return [row["case"] for row in json.loads(path.read_text())["refused"]]


def test_a_damaged_volume_costs_no_other_and_is_told(mixed, network, tmp_path, capsys):
    codes = tmp_path / "codes"
    with pytest.raises(Stopped, match=r"1 of 3 volumes were left out, see .*encode\.json") as stopped:
        encode_cases(find_cases(mixed), network, codes, WINDOW, TILES, latents=True, progress=False)
    assert stopped.value.code == 3
    assert f"left out: {mixed / 'phantom_01.nii.gz'}: [gzip]" in capsys.readouterr().err
    assert refused(codes / "encode.json") == ["phantom_01"]
    files = [EncodedVolume.load(path) for path in sorted(codes.glob("*.npz"))]
    assert len(files) == 2 and all(file.latent_mean is not None for file in files), "statistics of those that are there"


def test_what_a_shard_refused_is_told_until_the_volume_is_mended(mixed, phantom_folder, network, tmp_path, capsys):
    cases, codes, how = find_cases(mixed), tmp_path / "codes", {"tiles": TILES, "progress": False}
    with pytest.raises(Stopped):
        encode_cases(cases, network, codes, WINDOW, shard=shard("2/2"), **how)
    encode_cases(cases, network, codes, WINDOW, shard=shard("1/2"), **how)
    assert "2 cases, mean:" in capsys.readouterr().out, "nothing is left for others"
    assert refused(codes / "encode.json") == ["phantom_01"]
    shutil.copyfile(phantom_folder / "phantom_01.nii.gz", mixed / "phantom_01.nii.gz")
    os.utime(mixed / "phantom_01.nii.gz", (2**31, 2**31))
    encode_cases(cases, network, codes, WINDOW, shard=shard("1/2"), **how)
    assert "2 of 3 cases are done; the rest is for other shards" in capsys.readouterr().out
    assert refused(codes / "encode.json") == []


def test_volumes_of_another_size_than_the_networks_are_refused_with_the_way_out(phantom_folder, network, tmp_path):
    with pytest.raises(UserError, match=r"expected 32 x 32 x 24 voxels .*found 48 x 44 x 40; .*prepare VOLUMES --size"):
        encode_cases(
            find_cases(phantom_folder), network, tmp_path, WINDOW, TILES, progress=False, volume_size=(32, 32, 24)
        )
    (row, *_) = encode_cases(
        find_cases(phantom_folder)[:1], network, tmp_path, WINDOW, TILES, progress=False, volume_size=(48, 44, 40)
    )
    assert (tmp_path / f"{row['case']}.npz").exists()


def test_a_volume_too_large_for_one_tile_costs_no_other(phantom_folder, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    network = VQGAN(channels=(8, 8), norm="group", num_embeddings=16, embedding_dim=2).eval()
    encode_cases(find_cases(phantom_folder)[:2], network, tmp_path / "codes", WINDOW, progress=False)
    free = iter([0.0, math.inf] * 2)
    monkeypatch.setattr(exact, "free_host_bytes", lambda: next(free))
    with pytest.raises(Stopped, match="1 of 2 volumes were left out"):
        encode_cases(find_cases(phantom_folder)[:2], network, tmp_path / "again", WINDOW, progress=False)
    with pytest.raises(Stopped, match="1 of 2 code files were left out"):
        decode_files(tmp_path / "codes", network, tmp_path / "decoded", progress=False)
    told = capsys.readouterr().err
    assert told.count("left out: ") == 2 and "phantom_00.nii.gz: norm='group' looks" in told
    assert refused(tmp_path / "again/encode.json") == refused(tmp_path / "decoded/decode.json") == ["phantom_00"]


def test_nothing_but_damaged_volumes_is_an_error(mixed, network, tmp_path):
    cases = find_cases(mixed)[1:2]
    with pytest.raises(UserError, match=r"phantom_01\.nii\.gz: \[gzip\]"):
        encode_cases(cases, network, tmp_path / "codes", WINDOW, TILES, progress=False)


def test_a_full_disk_is_no_fault_of_a_volume(phantom_folder, network, tmp_path, monkeypatch):
    def full(self, path):
        raise UserError(f"{path}: could not be written (No space left on device)")

    monkeypatch.setattr(EncodedVolume, "save", full)
    with pytest.raises(UserError, match=r"phantom_00\.npz: could not be written"):
        encode_cases(find_cases(phantom_folder), network, tmp_path / "codes", WINDOW, TILES, progress=False)
    assert not (tmp_path / "codes/encode.json").exists()


@pytest.mark.parametrize("done_before", [False, True])
def test_a_damaged_code_file_costs_no_other_and_is_told(codes, network, tmp_path, capsys, done_before):
    back, second = tmp_path / "back", codes / "phantom_01.npz"
    if done_before:
        decode_files(codes, network, back, TILES, progress=False)
    whole, modified = second.read_bytes(), second.stat().st_mtime
    second.write_bytes(whole[:-40])
    os.utime(second, (modified, modified))
    with pytest.raises(Stopped, match=r"1 of 3 code files were left out, see .*decode\.json") as stopped:
        decode_files(codes, network, back, TILES, progress=False)
    assert stopped.value.code == 3
    assert f"left out: {second}: expected a seal" in capsys.readouterr().err
    assert refused(back / "decode.json") == ["phantom_01"]
    assert [row["case"] for row in without_seconds(back / "decode.json")] == ["phantom_00", "phantom_02"]
    second.write_bytes(whole)
    decode_files(codes, network, back, TILES, progress=False)
    assert refused(back / "decode.json") == []


def test_shards_tell_of_code_files_that_others_refused(codes, network, tmp_path):
    (codes / "phantom_01.npz").write_bytes(b"no codes")
    with pytest.raises(Stopped):
        decode_files(codes, network, tmp_path / "back", TILES, progress=False, shard=shard("2/2"))
    decode_files(codes, network, tmp_path / "back", TILES, progress=False, shard=shard("1/2"))
    assert refused(tmp_path / "back/decode.json") == ["phantom_01"]
    assert len(without_seconds(tmp_path / "back/decode.json")) == 2


def test_the_summary_tells_sizes_and_rates(codes):
    rows = json.loads((codes / "encode.json").read_text())["cases"]
    assert [row["case"] for row in rows] == ["phantom_00", "phantom_01", "phantom_02"]
    for row in rows:
        assert row["num_codes"] == 12 * 11 * 10
        assert row["bits_per_voxel"] == pytest.approx(6 * 12 * 11 * 10 / (48 * 44 * 40))
        assert row["file_bytes"] == (codes / f"{row['case']}.npz").stat().st_size
        assert 0 < row["order0_entropy_bits"] <= 6
        assert row["lzma_bytes"] > 0


@pytest.mark.parametrize("bound", [-1, 0.5, 40000])
def test_a_bound_that_is_none_is_refused(network, tmp_path, bound):
    with pytest.raises(UserError, match="max_error_hu: expected a whole number"):
        encode_cases([], network, tmp_path, WINDOW, max_error_hu=bound)


def test_a_folder_without_code_files_is_named(network, tmp_path):
    with pytest.raises(UserError, match="holds no code file"):
        decode_files(tmp_path, network, tmp_path / "out")
    with pytest.raises(UserError, match="no such file or folder"):
        decode_files(tmp_path / "none", network, tmp_path / "out")


@pytest.mark.parametrize("kind", ["fsq", "residual"])
def test_other_quantizers_go_there_and_back_within_a_bound(kind, phantom_folder, tmp_path):
    """Two books of 8192 have 2**26 codes: they need 26 bits and int32 on the way."""
    torch.manual_seed(0)
    quantizer = make_quantizer(kind, 8192, 3, levels=(8, 8, 8), init="random", reservoir_size=64)
    network = VQGAN(channels=(4, 8), quantizer=quantizer).eval()
    case = find_cases(phantom_folder)[0]
    encode_cases([case], network, tmp_path / "codes", WINDOW, TILES, max_error_hu=20, progress=False)
    encoded = EncodedVolume.load(tmp_path / f"codes/{case['case']}.npz", network)
    assert encoded.num_embeddings == {"fsq": 512, "residual": 2**26}[kind]
    hu = load_volume()({"image": case["image"]})["image"]
    scaled = ((hu.as_tensor().double() + 1000) / 1000 - 1).clamp(-1, 1)[None].float()
    whole = ExactTileInferer(tuple(-(-side // 4) * 4 for side in scaled.shape[2:])).encode(scaled, network)[0]
    assert np.array_equal(encoded.codes, whole.numpy())
    decode_files(tmp_path / "codes", network, tmp_path / "back", TILES, progress=False)
    source, back = nib.load(case["image"]), nib.load(tmp_path / f"back/{case['case']}_decoded.nii.gz")
    error = np.asarray(back.dataobj).astype(int) - np.asarray(source.dataobj)
    assert np.abs(error).max() <= 20
