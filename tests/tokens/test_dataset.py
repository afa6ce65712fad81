"""Code files as training data: what an item holds, where its crop comes from, and which files do not go together."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks import VQGAN, make_quantizer
from ctpa_vqgan.tokens import EncodedVolume, network_fingerprint
from ctpa_vqgan.tokens.dataset import CodesDataset, LatentStatistics, latent_statistics

CROP = (3, 4, 2)


@pytest.fixture
def volumes(make_volume):
    """Three volumes of one network, each with codes and latents of its own."""
    rng = np.random.default_rng(3)
    return {
        name: make_volume(
            codes=rng.integers(0, 8192, (8, 7, 5)),
            latents=(rng.normal(size=(4, 8, 7, 5)) * 2 + k).astype(np.float16),
        )
        for k, name in enumerate(("c", "a", "b"))
    }


@pytest.fixture
def folder(volumes, tmp_path):
    for name, volume in volumes.items():
        volume.save(tmp_path / f"{name}.npz")
    return tmp_path


@pytest.fixture(scope="module")
def table():
    return torch.randn(8192, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VQGAN(channels=(4, 4), num_embeddings=8192, embedding_dim=6).eval()


# -- items -------------------------------------------------------------------------------------------------------------


def test_a_folder_gives_the_codes_of_its_files_by_name(folder, volumes):
    data = CodesDataset(folder)
    assert [item["case"] for item in data] == ["a", "b", "c"]
    for item in data:
        assert item["codes"].dtype == torch.int64
        assert np.array_equal(item["codes"], volumes[item["case"]].codes)
        assert (item["position"].tolist(), item["shape"].tolist()) == ([0, 0, 0], [8, 7, 5])


def test_a_list_keeps_its_order(folder):
    data = CodesDataset([folder / "c.npz", str(folder / "a.npz")])
    assert [item["case"] for item in data] == ["c", "a"]
    assert data[-1]["case"] == "a"


def test_files_in_the_making_are_passed_over(folder):
    (folder / ".123.d.npz").write_bytes(b"half a fi")
    assert len(CodesDataset(folder)) == 3


def test_items_are_plain_and_collate(folder, table):
    for kwargs in ({}, {"latents": True}, {"latents": True, "embed": table}):
        batch = next(iter(DataLoader(CodesDataset(folder, CROP, **kwargs), batch_size=3)))
        assert all(type(value) is torch.Tensor for name, value in batch.items() if name != "case")
        values = batch["latents" if kwargs else "codes"]
        assert values.shape[0] == 3 and values.shape[-3:] == CROP


def test_a_file_is_read_again_for_each_item(folder, make_volume):
    """Nothing is kept: memory does not grow with the data set."""
    data = CodesDataset(folder)
    data[0]
    make_volume(codes=np.zeros((8, 7, 5), int)).save(folder / "a.npz")
    assert not data[0]["codes"].any()


# -- crops -------------------------------------------------------------------------------------------------------------


def test_a_crop_lies_where_its_position_says(folder, volumes):
    data = CodesDataset(folder, CROP)
    for epoch in range(5):
        data.set_epoch(epoch)
        for item in data:
            x, y, z = item["position"].tolist()
            whole = volumes[item["case"]].codes
            assert np.array_equal(item["codes"], whole[x : x + 3, y : y + 4, z : z + 2])


def test_codes_and_latents_of_one_seed_are_the_same_crop(folder, table):
    positions = [
        [item["position"].tolist() for item in CodesDataset(folder, CROP, **kwargs)]
        for kwargs in ({}, {"latents": True}, {"latents": True, "embed": table})
    ]
    assert positions[0] == positions[1] == positions[2]


def test_crops_reach_every_place_evenly(folder):
    data = CodesDataset(folder, CROP)
    count = np.zeros((6, 4, 4))
    for epoch in range(400):
        data.set_epoch(epoch)
        for index in range(3):
            count[tuple(data._window(index)[0])] += 1
    assert count.sum() == 1200 and count.min() > 0  # 12.5 expected in each
    assert count.max() < 35


def positions(data, epoch, **loading):
    data.set_epoch(epoch)
    return {item["case"][0]: item["position"][0].tolist() for item in DataLoader(data, shuffle=True, **loading)}


def test_crops_do_not_depend_on_order_or_workers(folder):
    data = CodesDataset(folder, CROP)
    alone = [positions(data, epoch) for epoch in range(3)]
    assert alone[0] != alone[1] != alone[2]
    assert [positions(data, epoch, num_workers=2) for epoch in range(3)] == alone
    assert [positions(CodesDataset(folder, CROP), epoch) for epoch in range(3)] == alone
    assert [positions(CodesDataset(folder, CROP, seed=1), epoch) for epoch in range(3)] != alone


def test_workers_that_outlive_an_epoch_hear_of_the_next(folder):
    data = CodesDataset(folder, CROP)
    alone = [positions(data, epoch) for epoch in range(3)]
    loader = DataLoader(data, num_workers=2, persistent_workers=True)
    for epoch in range(3):
        data.set_epoch(epoch)
        assert {item["case"][0]: item["position"][0].tolist() for item in loader} == alone[epoch]


# -- latents -----------------------------------------------------------------------------------------------------------


def test_continuous_latents_come_from_the_file(folder, volumes):
    for item in CodesDataset(folder, latents=True, standardize=False):
        assert item["latents"].dtype == torch.float32
        assert np.array_equal(item["latents"], volumes[item["case"]].latents)


def test_with_a_codebook_latents_are_the_vectors_of_the_codes(folder, volumes, table):
    for item in CodesDataset(folder, latents=True, standardize=False, embed=table):
        assert torch.equal(item["latents"], table[volumes[item["case"]].codes.astype(int)].movedim(-1, 0))


def test_with_a_network_they_are_its_stage_2_inputs(network, make_volume, tmp_path):
    x = torch.rand(1, 1, 32, 28, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        codes, expected = network.index_quantize(x)[0], network.encode_stage_2_inputs(x)[0]
    make_volume(codes=codes.numpy(), network=network_fingerprint(network)).save(tmp_path / "a.npz")
    item = CodesDataset(tmp_path, latents=True, standardize=False, embed=network)[0]
    assert torch.equal(item["latents"], expected)


@pytest.mark.parametrize("with_table", [True, False])
def test_standardized_latents_have_mean_0_and_deviation_1_and_go_back(folder, table, with_table):
    embed = table if with_table else None
    data = CodesDataset(folder, latents=True, embed=embed)
    latents = torch.stack([item["latents"] for item in data])
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(latents.shape[1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.std((0, 2, 3, 4), correction=0), torch.ones(latents.shape[1]))
    raw = torch.stack([item["latents"] for item in CodesDataset(folder, latents=True, standardize=False, embed=embed)])
    torch.testing.assert_close(data.statistics.restore(latents), raw)


def test_statistics_of_the_data_set_in_the_files_are_taken(make_volume, tmp_path):
    latents = np.ones((2, 8, 7, 5), np.float32)
    for name in "ab":
        make_volume(latents=latents, latent_mean=[0, 1], latent_std=[0.5, 2]).save(tmp_path / f"{name}.npz")
    (column,) = {tuple(item["latents"][:, 0, 0, 0].tolist()) for item in CodesDataset(tmp_path, latents=True)}
    assert column == (2, 0)


def test_where_files_tell_different_statistics_they_are_computed(make_volume, tmp_path):
    for value in (1, 3):
        latents = np.full((1, 8, 7, 5), value, np.float32)
        make_volume(latents=latents, latent_mean=[value], latent_std=[1]).save(tmp_path / f"{value}.npz")
    assert [float(v) for v in CodesDataset(tmp_path, latents=True).statistics] == [2, 1]


def test_statistics_can_be_those_of_another_set(folder, table):
    given = LatentStatistics(torch.arange(6.0), torch.full((6,), 2.0))
    data = CodesDataset(folder, latents=True, embed=table, statistics=given)
    raw = CodesDataset(folder, latents=True, embed=table, standardize=False)
    torch.testing.assert_close(data[1]["latents"] * 2 + torch.arange(6.0)[:, None, None, None], raw[1]["latents"])


def test_a_constant_channel_becomes_0(make_volume, tmp_path):
    make_volume(latents=np.full((1, 8, 7, 5), 0.3, np.float32)).save(tmp_path / "a.npz")
    assert latent_statistics(tmp_path).std == 1
    torch.testing.assert_close(CodesDataset(tmp_path, latents=True)[0]["latents"], torch.zeros(1, 8, 7, 5))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "f" * 64}, r"d\.npz: expected network 0123456789ab\.\.\. as in a\.npz, found ffffffffffff\.\.\."),
        ({"num_embeddings": 8193}, r"d\.npz: expected num_embeddings 8192 as in a\.npz, found 8193"),
        (
            {"hu_window": (-1000, 600)},
            r"expected hu_window \[-1000\.0, 1000\.0\] as in a\.npz, found \[-1000\.0, 600\.0\]",
        ),
    ],
)
def test_files_of_different_networks_are_refused_in_one_line(changes, message, folder, make_volume):
    make_volume(**changes).save(folder / "d.npz")
    with pytest.raises(UserError, match=message) as error:
        CodesDataset(folder)
    assert "\n" not in str(error.value)


def test_a_file_that_was_exchanged_since_is_refused(folder, make_volume):
    data = CodesDataset(folder)
    make_volume(network="f" * 64).save(folder / "a.npz")
    with pytest.raises(UserError, match=r"a\.npz: expected codes of the network 0123456789ab"):
        data[0]


def test_a_volume_smaller_than_the_crop_is_refused(folder):
    assert len(CodesDataset(folder, crop=(8, 7, 5))) == 3
    message = r"a\.npz: expected a latent grid of at least the crop \(8, 8, 5\), found \(8, 7, 5\)"
    with pytest.raises(UserError, match=message):
        CodesDataset(folder, crop=(8, 8, 5))


def test_codes_alone_have_no_continuous_latents(make_volume, tmp_path):
    make_volume().save(tmp_path / "a.npz")
    for wanting in (lambda: CodesDataset(tmp_path, latents=True), lambda: latent_statistics(tmp_path)):
        with pytest.raises(UserError, match=r"expected continuous latents, found codes alone; give embed=network"):
            wanting()


def test_the_network_must_be_the_one_that_encoded(folder, network):
    with pytest.raises(UserError, match=r"a\.npz: expected codes of the network given as embed"):
        CodesDataset(folder, latents=True, embed=network)


def test_a_codebook_of_another_size_is_refused(folder):
    with pytest.raises(ValueError, match=r"a network or a codebook \[8192, E\], found \(10, 4\)"):
        CodesDataset(folder, latents=True, embed=torch.zeros(10, 4))


@pytest.mark.parametrize("crop", [(3, 3), (0, 3, 3)])
def test_a_crop_is_three_positive_numbers(crop, folder):
    with pytest.raises(ValueError, match="crop must be three positive numbers"):
        CodesDataset(folder, crop)


def test_a_folder_without_code_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected code files, found none"):
        CodesDataset(tmp_path)


def test_a_file_that_is_no_code_file_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(UserError, match=r"a\.npz: expected a code file of ctpa_vqgan"):
        CodesDataset(tmp_path)


def test_a_full_size_item_takes_its_crop_alone(make_volume, tmp_path):
    """The item of a 512 x 512 x 604 volume does not hold on to the whole grid."""
    codes = np.zeros((128, 128, 151), np.uint16)
    make_volume(codes=codes, shape=(512, 512, 604), original_shape=(512, 512, 604)).save(tmp_path / "a.npz")
    assert EncodedVolume.header(tmp_path / "a.npz")["shape"] == [512, 512, 604]
    item = CodesDataset(tmp_path, (32, 32, 32))[0]
    assert item["codes"].untyped_storage().nbytes() == 8 * 32**3


# -- two books: more codes than a table has room for -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fsq", "residual"])
def test_codes_of_every_kind_of_quantizer_become_their_vectors(kind, make_volume, tmp_path):
    quantizer = make_quantizer(kind, 8192, 6, levels=(8, 5, 7), init="random", reservoir_size=64)
    network = VQGAN(channels=(4, 4), quantizer=quantizer).eval()
    size = quantizer.num_embeddings
    codes = np.random.default_rng(0).integers(0, size, (8, 7, 5))
    codes[0, 0, :2] = 0, size - 1
    volume = make_volume(codes=codes, num_embeddings=size, network=network_fingerprint(network))
    volume.save(tmp_path / "a.npz")
    loader = DataLoader(CodesDataset(tmp_path, latents=True, standardize=False, embed=network), num_workers=1)
    vectors = quantizer.embed(torch.from_numpy(codes)[None])
    assert torch.equal(next(iter(loader))["latents"], vectors)
    statistics = latent_statistics(tmp_path, network)
    torch.testing.assert_close(statistics.mean, vectors.mean((0, 2, 3, 4)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.std, vectors.std((0, 2, 3, 4), correction=0), rtol=1e-5, atol=1e-6)


def test_the_statistics_of_many_codes_are_taken_in_parts(folder, table, monkeypatch):
    whole = latent_statistics(folder, table)
    monkeypatch.setattr("ctpa_vqgan.tokens.dataset.CHUNK", 100)
    for one, other in zip(whole, latent_statistics(folder, table)):
        torch.testing.assert_close(one, other)
