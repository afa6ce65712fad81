"""The smallest training that has everything: networks of a few channels on patches of 16 voxels a side."""

import torch
from ignite.engine import Events
from torch.utils.data import DataLoader, Dataset

from ctpa_vqgan.losses import GradientLoss, HUL1Loss, WeightedLosses
from ctpa_vqgan.networks import VQGAN, PatchDiscriminators, VectorQuantizer
from ctpa_vqgan.trainer import VQGANTrainer

WEIGHTS = {"l1": 1.0, "perceptual": 0.5, "commitment": 0.25, "adversarial": 0.1, "feature_matching": 0.1}
SIDE = 16


def make_losses(**weights):
    terms = {"l1": HUL1Loss(), "perceptual": GradientLoss()}
    return WeightedLosses(terms, WEIGHTS | weights, ["commitment", "adversarial", "feature_matching"])


def make_network(seed=0, init_steps=2):
    torch.manual_seed(seed)
    quantizer = VectorQuantizer(16, 4, init_steps=init_steps, reservoir_size=256, patches_in_reservoir=8)
    return VQGAN(channels=(4, 8), quantizer=quantizer)


def make_discriminator(seed=1):
    torch.manual_seed(seed)
    return PatchDiscriminators(channels=4, num_layers=1, num_slices=2)


class Patches(Dataset):
    """The same smooth patches for every test."""

    def __init__(self, count, dtype=torch.float32):
        coarse = torch.rand(count, 1, 4, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
        fine = torch.nn.functional.interpolate(coarse, size=(SIDE,) * 3, mode="trilinear")
        self.patches = fine.to(dtype)

    def __len__(self):
        return len(self.patches)

    def __getitem__(self, number):
        return {"image": self.patches[number], "case": f"case_{number}"}


def make_trainer(network=None, data=None, batch_size=4, max_epochs=1, discriminator=None, lr=1e-2, **options):
    network = network or make_network()
    loader = DataLoader(data or Patches(8), batch_size=batch_size)
    if discriminator is not None:
        options["discriminator"] = discriminator
        options["d_optimizer"] = torch.optim.Adam(discriminator.parameters(), lr=lr)
    options.setdefault("losses", make_losses())
    return VQGANTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=loader,
        network=network,
        g_optimizer=torch.optim.Adam(network.parameters(), lr=lr),
        **options,
    )


def state_of(*modules):
    return [{key: value.clone() for key, value in module.state_dict().items()} for module in modules]


def assert_equal_states(one, other, **tolerance):
    for first, second in zip(one, other):
        assert first.keys() == second.keys()
        for key in first:
            if tolerance:
                torch.testing.assert_close(first[key], second[key], msg=lambda m, key=key: f"{key}: {m}", **tolerance)
            else:
                assert torch.equal(first[key], second[key]), key


def on_iteration(trainer, function):
    trainer.add_event_handler(Events.ITERATION_COMPLETED, function)
