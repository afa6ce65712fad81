"""Training gives the same bits again: no operation that cannot, nothing drawn from generators that are not saved."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from small_training import SIDE, WEIGHTS, make_discriminator, make_losses, make_network, make_trainer, on_iteration
from torch.utils._python_dispatch import TorchDispatchMode

from ctpa_vqgan.data import RandomPatchDataset, patch_loader, prepare_patch
from ctpa_vqgan.networks.blocks import ReplicateConv3d, ReplicateConvTranspose3d, RMSNormSiLU, replicate_pad

TRAIN = Path(__file__).parents[1] / "bundles/ctpa_vqgan/configs/train.yaml"
SMALL = {"channels": [4, 8], "num_embeddings": 16, "codebook_init_steps": 1, "discriminator_channels": 4}

# What PyTorch has no deterministic CUDA kernel for, by the documentation of torch.use_deterministic_algorithms: of the
# nodes of an autograd graph, and of the operations that are called. Versions differ about the last two of each.
NO_KERNEL_NODES = re.compile(
    r"(AvgPool3D|AdaptiveAvgPool[23]D|AdaptiveMaxPool2D|FractionalMaxPool|MaxUnpool|Upsample(Linear|Bilinear|Trilinear"
    r"|Bicubic)|ReflectionPad|NllLoss|CtcLoss|EmbeddingBag|Put|Histc|Median|GridSampler|Cumsum|ScatterReduce"
    r"|ReplicationPad|MaxPool[23]D)"
)
NO_KERNEL_OPS = re.compile(
    r"(avg_pool3d_backward|_?adaptive_avg_pool[23]d_backward|adaptive_max_pool2d_backward"
    r"|fractional_max_pool[23]d_backward|max_unpool[23]d|_?upsample_(linear1d|bilinear2d|trilinear3d|bicubic2d)\w*backward"
    r"|reflection_pad[123]d_backward|nll_loss\w*|_ctc_loss_backward|_embedding_bag\w*|put_?|histc|(nan)?median"
    r"|grid_sampler_[23]d_backward|cumsum_?|scatter_reduce_?"
    r"|replication_pad[123]d_backward|max_pool[23]d_with_indices_backward)"
)


def nodes_of(value):
    """Names of all backward nodes that lead to a value."""
    seen, names, waiting = set(), set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(node.name())
            waiting += [before for before, _ in node.next_functions]
    return names


class Called(TorchDispatchMode):
    """Notes the operations that reach a kernel, those of a backward pass too."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        weighted = name == "bincount" and (*args[1:2], (kwargs or {}).get("weights"))[0] is not None
        self.names.add("bincount with weights" if weighted else name)
        return function(*args, **(kwargs or {}))


def refused(names, pattern):
    return {name for name in names if pattern.match(name)} | (names & {"bincount with weights"})


# -- what PyTorch has no deterministic kernel for ----------------------------------------------------------------------


def volume(**options):
    return torch.rand(1, 1, 8, 8, 8, requires_grad=True, **options)


def plane():
    return torch.rand(1, 1, 8, 8, requires_grad=True)


def line():
    return torch.rand(1, 1, 8, requires_grad=True)


def unpooled(dims):
    pool, unpool = (getattr(F, f"max_{name}{dims}d") for name in ("pool", "unpool"))
    x = {1: line, 2: plane, 3: volume}[dims]()
    with torch.no_grad():
        _, places = pool(x, 2, return_indices=True)
    return unpool(x[(..., *[slice(4)] * dims)], places, 2)


NOT_DETERMINISTIC = {
    "AvgPool3d": lambda: F.avg_pool3d(volume(), 2),
    "AdaptiveAvgPool2d": lambda: F.adaptive_avg_pool2d(plane(), 3),
    "AdaptiveAvgPool3d": lambda: F.adaptive_avg_pool3d(volume(), 3),
    "AdaptiveMaxPool2d": lambda: F.adaptive_max_pool2d(plane(), 3),
    "FractionalMaxPool2d": lambda: F.fractional_max_pool2d(plane(), 2, output_size=3),
    "FractionalMaxPool3d": lambda: F.fractional_max_pool3d(volume(), 2, output_size=3),
    "MaxUnpool1d": lambda: unpooled(1),
    "MaxUnpool2d": lambda: unpooled(2),
    "MaxUnpool3d": lambda: unpooled(3),
    "linear": lambda: F.interpolate(line(), 5, mode="linear"),
    "bilinear": lambda: F.interpolate(plane(), 5, mode="bilinear"),
    "bilinear, antialiased": lambda: F.interpolate(plane(), 5, mode="bilinear", antialias=True),
    "bicubic": lambda: F.interpolate(plane(), 5, mode="bicubic"),
    "trilinear": lambda: F.interpolate(volume(), 5, mode="trilinear"),
    "ReflectionPad1d": lambda: F.pad(line(), (1, 1), "reflect"),
    "ReflectionPad2d": lambda: F.pad(plane(), (1,) * 4, "reflect"),
    "ReflectionPad3d": lambda: F.pad(volume(), (1,) * 6, "reflect"),
    "NLLLoss": lambda: F.nll_loss(plane()[0, 0], torch.arange(8)),
    "NLLLoss of an image": lambda: F.nll_loss(plane(), torch.zeros(1, 8, 8, dtype=torch.int64)),
    "CTCLoss": lambda: F.ctc_loss(volume()[0, 0], torch.ones(8, 2, dtype=torch.int64), [8] * 8, [2] * 8),
    "EmbeddingBag": lambda: F.embedding_bag(torch.arange(4)[None], plane()[0, 0], mode="max"),
    "put_": lambda: plane().clone().put_(torch.tensor([3]), torch.tensor([1.0])),
    "median": lambda: plane().median(0).values,
    "grid_sample": lambda: F.grid_sample(plane(), torch.zeros(1, 4, 4, 2), align_corners=False),
    "grid_sample of a volume": lambda: F.grid_sample(volume(), torch.zeros(1, 4, 4, 4, 3), align_corners=False),
    "cumsum": lambda: plane().cumsum(0),
    "scatter_reduce": lambda: line().scatter_reduce(2, torch.zeros(1, 1, 8, dtype=torch.int64), line(), "prod"),
    "ReplicationPad1d": lambda: F.pad(line(), (1, 1), "replicate"),
    "ReplicationPad2d": lambda: F.pad(plane(), (1,) * 4, "replicate"),
    "ReplicationPad3d": lambda: F.pad(volume(), (1,) * 6, "replicate"),
    "MaxPool2d": lambda: F.max_pool2d(plane(), 2),
    "MaxPool3d": lambda: F.max_pool3d(volume(), 2),
}


@pytest.mark.parametrize("operation", NOT_DETERMINISTIC.values(), ids=NOT_DETERMINISTIC)
def test_the_search_finds_each_operation_of_pytorchs_list(operation):
    with Called() as called:
        value = (operation() * 2).sum()
        value.backward()
    assert refused(nodes_of(value), NO_KERNEL_NODES)
    assert refused(called.names, NO_KERNEL_OPS)


@pytest.mark.parametrize(
    "count",
    [lambda x: torch.bincount(x, weights=torch.ones(3)), lambda x: torch.histc(x.float())],
    ids=["bincount with weights", "histc"],
)
def test_the_search_finds_those_without_a_backward_pass_too(count):
    with Called() as called:
        count(torch.arange(3))
    assert refused(called.names, NO_KERNEL_OPS)


def test_the_search_lets_others_pass():
    x, layer = volume(), torch.nn.Conv3d(1, 1, 3)
    with Called() as called:
        value = (F.avg_pool2d(F.pad(layer(x), (1,) * 6)[0], 2) + torch.bincount(torch.arange(3)).sum()).mean()
        value.backward()
    assert {"ConvolutionBackward0", "ConstantPadNdBackward0", "AvgPool2DBackward0"} <= nodes_of(value)
    assert {"convolution_backward", "avg_pool2d_backward", "bincount"} <= called.names
    assert not refused(nodes_of(value), NO_KERNEL_NODES)
    assert not refused(called.names, NO_KERNEL_OPS)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"norm": "group", "channels": [8, 8], "front_end": "haar", "checkpointing": True},
        {"front_end": "none", "channels": [4, 4, 8], "normalize_codes": True},
        {"quantizer": "residual", "loss_weights": WEIGHTS | {"windowed_l1": 1.0, "lpips": 0.0}},
        {"quantizer": "fsq", "fsq_levels": [4, 4]},
    ],
    ids=lambda knobs: " ".join(knobs) or "default",
)
def test_a_training_step_calls_nothing_without_a_deterministic_kernel(monkeypatch, knobs):
    """The bundle's own networks and losses, small; the codebook restarts dead codes, and both networks take a step."""
    nodes, losses, backward = set(), [], torch.Tensor.backward

    def look(value):
        losses.append(nodes_of(value))
        backward(value)

    parser = ConfigParser(ConfigParser.load_config_file(TRAIN) | SMALL | knobs)
    trainer = make_trainer(
        parser.get_parsed_content("network_def"),
        [{"image": torch.rand(1, 24, 24, 24) * 2 - 1, "case": "0"}] * 2,
        batch_size=2,
        max_epochs=2,
        discriminator=parser.get_parsed_content("discriminator_def"),
        losses=parser.get_parsed_content("losses"),
    )
    monkeypatch.setattr(torch.Tensor, "backward", look)
    with Called() as called:
        trainer.run()
    nodes = set().union(*losses)
    assert len(losses) == 2 * 2 * 2, "two networks, two patches, two iterations"
    assert {"ConvolutionBackward0", "_ReplicatePadBackward", "IndexSelectBackward0", "ReluBackward0"} <= nodes
    assert {"convolution_backward", "native_batch_norm_backward"} <= called.names
    assert "adversarial" in trainer.terms and "feature_matching" in trainer.terms
    assert not refused(nodes, NO_KERNEL_NODES)
    assert not refused(called.names, NO_KERNEL_OPS)


# -- backward passes of our own ----------------------------------------------------------------------------------------

# what they are made of; each has a deterministic kernel, convolutions when PyTorch is asked for it
HARMLESS = {
    "_to_copy",
    "add",
    "add_",
    "addcmul_",
    "alias",
    "clamp",
    "clone",
    "constant_pad_nd",
    "convolution",
    "convolution_backward",
    "copy_",
    "detach",
    "div",
    "expand",
    "linalg_vector_norm",
    "mul",
    "mul_",
    "new_empty_strided",
    "ones_like",
    "reciprocal",
    "replication_pad3d",
    "silu_",
    "silu_backward",
    "slice",
    "sum",
    "view",
}


@pytest.mark.parametrize(
    ("layer", "node", "calls"),
    [
        (lambda x: replicate_pad(x, ((1, 2), (0, 1), (2, 0))), "_ReplicatePadBackward", {"clone", "slice", "add_"}),
        (RMSNormSiLU(2), "_RMSNormSiLUBackward", {"silu_backward", "linalg_vector_norm", "addcmul_"}),
        (
            ReplicateConv3d(2, 3, (3, 3, 3), activation=RMSNormSiLU(2)),
            "ConvolutionBackward0",
            {"convolution_backward", "replication_pad3d", "silu_"},  # activation and padding are made again
        ),
        (
            ReplicateConvTranspose3d(2, 3, (4, 4, 4), (2, 2, 2)),
            "ConvolutionBackward0",
            {"convolution_backward", "replication_pad3d"},
        ),
    ],
    ids=["replicate_pad", "RMSNormSiLU", "ReplicateConv3d", "ReplicateConvTranspose3d"],
)
def test_backward_passes_of_our_own_are_made_of_harmless_operations(layer, node, calls):
    value = layer(torch.rand(1, 2, 6, 6, 6, requires_grad=True)).sum()
    assert node in nodes_of(value)
    with Called() as called:
        value.backward()
    assert calls <= called.names <= HARMLESS
    assert not refused(HARMLESS, NO_KERNEL_OPS)


# -- generators --------------------------------------------------------------------------------------------------------


def load(item):
    """Volumes without files: a case's name says what it holds."""
    coarse = torch.rand(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(int(item["image"]))) * 2400 - 1200
    return {"image": F.interpolate(coarse, size=(24, 24, 24), mode="trilinear")[0].short()}


def train(seed=3, micro_batch_size=2, num_workers=0, before=None):
    """Six iterations with discriminators and restarts of dead codes: each term's value as hexadecimal digits."""
    cases = [{"image": str(number), "case": str(number)} for number in range(3)]
    dataset = RandomPatchDataset(cases, load, prepare_patch((-1000.0, 1000.0)), (SIDE,) * 3, num_samples=2, seed=seed)
    network, terms, restarts = make_network(init_steps=1), [], []
    network.quantizer.restart_threshold = 0.5
    trainer = make_trainer(
        network,
        discriminator=make_discriminator(),
        max_epochs=2,
        losses=make_losses(),
        micro_batch_size=micro_batch_size,
        adversarial_start=1,
        adversarial_ramp=3,
    )
    draw = network.quantizer._draw
    network.quantizer._draw = lambda *arguments: restarts.append(arguments) or draw(*arguments)
    trainer.data_loader = trainer.state.dataloader = patch_loader(dataset, batch_size=2, num_workers=num_workers)
    trainer.state.epoch_length = dataset.num_batches(2)
    on_iteration(trainer, lambda engine: terms.append({name: float(v).hex() for name, v in engine.terms.items()}))
    if before is not None:
        before()
    trainer.run()
    assert len(terms) == 6
    assert len(restarts) > 1, "the codebook was made, and codes restarted"
    assert "discriminator" in terms[-1]
    return terms


def states():
    generators = [torch.get_rng_state().tolist(), random.getstate()]
    return [*generators, [np.asarray(part).tolist() for part in np.random.get_state()]]


@pytest.fixture(scope="module")
def first():
    """Terms of a training, and the generators before and after it."""
    found = []
    return train(before=lambda: found.append(states())), *found, states()


def test_training_leaves_the_global_generators_alone(first):
    _, before, after = first
    assert after == before


def test_loader_processes_leave_them_alone_too(first):
    found = []
    assert train(num_workers=2, before=lambda: found.append(states())) == first[0]
    assert found == [states()]


@pytest.mark.parametrize("draw", [torch.rand, lambda size: random.random(), np.random.rand, torch.manual_seed])
def test_a_number_drawn_or_a_seed_set_would_be_noticed(draw):
    before = states()
    draw(1)
    assert states() != before


def elsewhere():
    """Bring the global generators into other states."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(99)


def test_two_runs_with_the_same_seed_are_equal_to_the_last_bit(first):
    assert train(before=elsewhere) == first[0]
    assert train(seed=4) != first[0]


def test_two_runs_that_accumulate_gradients_are_equal_to_the_last_bit(first):
    accumulated = train(micro_batch_size=1)
    assert train(micro_batch_size=1, before=elsewhere) == accumulated
    assert accumulated != first[0], "sums in another order"
