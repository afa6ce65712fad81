"""The baseline's VQ-GAN as its state_dict and plain functions of it: made for tests, with random weights.

Its layers are called one by one in the order of its keys, on arrays [B, C, z, y, x], and share no code with ours.
"""

import math

import torch
import torch.nn.functional as F

WIDTH, CODES, EMBEDDING = 4, 32, 3
GROUPS = 4


def make_state(
    downsample=(4, 4, 4), width=WIDTH, critics=False, perceptual=False, seed=0, batch_norm=False, most_channels=512
):
    """A state_dict of a small one; weights are scaled so that values stay near 1.

    ``batch_norm`` is that of the generator (``norm_type: batch``); ``most_channels`` the limit of the discriminators.
    """
    random = torch.Generator().manual_seed(seed)
    state, steps = {}, int(math.log2(max(downsample)))

    def layer(name, first, second, kernel, transposed=False):
        scale = math.sqrt((first if transposed else second) * math.prod(kernel))
        state[f"{name}.weight"] = torch.randn(first, second, *kernel, generator=random) / scale
        state[f"{name}.bias"] = torch.randn(second if transposed else first, generator=random) / 10

    def norm(name, channels, statistics=batch_norm):
        state[f"{name}.weight"] = 1 + torch.randn(channels, generator=random) / 10
        state[f"{name}.bias"] = torch.randn(channels, generator=random) / 10
        if statistics:
            state[f"{name}.running_mean"] = torch.randn(channels, generator=random) / 10
            state[f"{name}.running_var"] = torch.rand(channels, generator=random) + 0.5
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def block(name, channels):
        for half in (1, 2):
            norm(f"{name}.norm{half}", channels)
            layer(f"{name}.conv{half}.conv", channels, channels, (3, 3, 3))

    layer("encoder.conv_first.conv", width, 1, (3, 3, 3))
    for i in range(steps):
        layer(f"encoder.conv_blocks.{i}.down.conv", width * 2 ** (i + 1), width * 2**i, (4, 4, 4))
        block(f"encoder.conv_blocks.{i}.res", width * 2 ** (i + 1))
    widest = width * 2**steps
    norm("encoder.final_block.0", widest)
    norm("decoder.final_block.0", widest)
    above = widest
    for i in range(steps):
        channels = width * 2 ** (steps - i)
        layer(f"decoder.conv_blocks.{i}.up.convt", above, channels, (4, 4, 4), transposed=True)
        block(f"decoder.conv_blocks.{i}.res1", channels)
        block(f"decoder.conv_blocks.{i}.res2", channels)
        above = channels
    layer("decoder.conv_last.conv", 1, 2 * width, (3, 3, 3))
    layer("pre_vq_conv.conv", EMBEDDING, widest, (1, 1, 1))
    layer("post_vq_conv.conv", widest, EMBEDDING, (1, 1, 1))
    state["codebook.embeddings"] = torch.randn(CODES, EMBEDDING, generator=random)
    state["codebook.N"] = torch.rand(CODES, generator=random) + 1
    state["codebook.z_avg"] = state["codebook.embeddings"] * state["codebook.N"][:, None]
    for name, axes in (("image_discriminator", 2), ("video_discriminator", 3)) if critics else ():
        widths = [1, *(min(width * 2**i, most_channels) for i in range(4)), 1]
        for i in range(5):
            layer(f"{name}.model{i}.0", widths[i + 1], widths[i], (4,) * axes)
            if i in (1, 2, 3):
                norm(f"{name}.model{i}.1", widths[i + 1], statistics=True)
    if perceptual:
        state["perceptual_model.lin0.model.1.weight"] = torch.rand(1, 64, 1, 1)
    return state


def write(folder, state, settings=None):
    """``peer.ckpt``: a state_dict, or a Lightning checkpoint with settings."""
    content = state if settings is None else {"state_dict": state, "hyper_parameters": settings, "global_step": 40}
    torch.save(content, folder / "peer.ckpt")
    return folder / "peer.ckpt"


def strides(downsample):
    """Halvings, from the first on: every axis from the start, until it is done."""
    times = [int(math.log2(d)) for d in downsample]
    return [tuple(2 if i < t else 1 for t in times) for i in range(max(times))]


def _padded(x, kernel, stride):
    sides = []
    for step in reversed(stride):
        sides += [math.ceil((kernel - step) / 2), (kernel - step) // 2]
    return F.pad(x, sides, mode="replicate")


def encode(state, x, downsample, groups=GROUPS):
    """Latents [B, E, z, y, x]."""
    x = _conv(state, "encoder.conv_first.conv", x)
    for i, stride in enumerate(strides(downsample)):
        x = _conv(state, f"encoder.conv_blocks.{i}.down.conv", x, stride)
        x = _block(state, f"encoder.conv_blocks.{i}.res", x, groups)
    return _conv(state, "pre_vq_conv.conv", _active(state, "encoder.final_block.0", x, groups))


def codes(state, latents):
    """The nearest of the codes, by all distances."""
    flat = latents.movedim(1, -1).reshape(-1, latents.shape[1])
    return torch.cdist(flat.double(), state["codebook.embeddings"].double()).argmin(1).view(-1, *latents.shape[2:])


def decode(state, found, downsample, groups=GROUPS):
    """Volumes [B, 1, z, y, x] of codes [B, z, y, x]."""
    x = _conv(state, "post_vq_conv.conv", state["codebook.embeddings"][found].movedim(-1, 1))
    x = _active(state, "decoder.final_block.0", x, groups)
    for i, stride in enumerate(strides(downsample)):
        name = f"decoder.conv_blocks.{i}"
        weight, bias = state[f"{name}.up.convt.weight"], state[f"{name}.up.convt.bias"]
        x = F.conv_transpose3d(_padded(x, 4, stride), weight, bias, stride, padding=3)
        x = _block(state, f"{name}.res2", _block(state, f"{name}.res1", x, groups), groups)
    return _conv(state, "decoder.conv_last.conv", x)


def judge(state, name, x):
    """Features and logits of a discriminator in evaluation mode, in order."""
    convolve, layers = (F.conv3d if x.ndim == 5 else F.conv2d), []
    for i in range(5):
        layer = f"{name}.model{i}"
        x = convolve(x, state[f"{layer}.0.weight"], state[f"{layer}.0.bias"], 2 if i < 3 else 1, padding=2)
        x = _batch_norm(state, f"{layer}.1", x) if i in (1, 2, 3) else x
        x = F.leaky_relu(x, 0.2) if i < 4 else x
        layers.append(x)
    return layers


def _conv(state, name, x, stride=(1, 1, 1)):
    weight = state[f"{name}.weight"]
    return F.conv3d(_padded(x, weight.shape[-1], stride), weight, state[f"{name}.bias"], stride)


def _active(state, name, x, groups):
    if f"{name}.running_mean" in state:
        x = _batch_norm(state, name, x)
    else:
        x = F.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)
    return x * torch.sigmoid(x)


def _batch_norm(state, name, x):
    names = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{name}.{one}"] for one in names))


def _block(state, name, x, groups):
    y = _conv(state, f"{name}.conv1.conv", _active(state, f"{name}.norm1", x, groups))
    return x + _conv(state, f"{name}.conv2.conv", _active(state, f"{name}.norm2", y, groups))
