"""The gradient of a step: collected over its backward passes, and over the ranks that train together."""

import warnings
from typing import Any

import torch
from torch import nn
from torch.distributed import GradBucket, all_reduce
from torch.nn.parallel import DistributedDataParallel

from ctpa_vqgan import ranks


class StepGradients:
    """Sum of a network's gradients over the passes of a step, in float64, and over ranks by DistributedDataParallel.

    In float64 the order of adding is lost in rounding, so patches may be dealt to passes and ranks in any way.

    PyTorch's usual way sums over ranks while the last backward pass runs. Here a rank may have no patch in the last
    step of an epoch, and one that runs out of memory begins its step anew while the others would wait for the rest of
    a bucket. So no pass sums; after them a pass of its own, whose loss is zero times every parameter, lets DDP's hook
    do it. That gives up hiding the sum behind the computation; for networks of some millions of parameters it takes
    milliseconds of a step of seconds (``plan --world-size`` says how many).

    Args:
        network: on its device. Several ranks: its parameters become those of rank 0. It stays as it is otherwise.
    """

    def __init__(self, network: nn.Module) -> None:
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._collected: dict[nn.Parameter, torch.Tensor] = {}
        self.parallel = None
        if ranks.are_many():
            device = self.weights[0].device
            # it means the zeros of the pass without patches
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
            self.parallel = DistributedDataParallel(_Nothing(self.weights), [device] if device.type == "cuda" else None)
            self.parallel.register_comm_hook(self._collected, _sum)

    def clear(self) -> None:
        """Begin a step."""
        self._collected.clear()
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of a backward pass of this rank."""
        for weight in self.weights:
            if weight.grad is None:
                continue
            if weight in self._collected:
                self._collected[weight] += weight.grad
            else:
                self._collected[weight] = weight.grad.double()
            weight.grad = None

    @torch.no_grad()
    def sum(self) -> None:
        """Give every parameter the gradient of the step; each rank has to call it."""
        if self.parallel is not None:
            with ranks.together(), torch.enable_grad():
                self.parallel().backward()
        for weight, gradient in self._collected.items():
            # in the weight's order in memory, so that its norm does not depend on where the gradient comes from
            weight.grad = torch.empty_like(weight).copy_(gradient)
        self._collected.clear()


class _Nothing(nn.Module):
    """Zero, to which every parameter contributes; no buffers: the codebook is kept equal by its quantizer."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)

    def forward(self) -> torch.Tensor:
        return sum(weight.flatten()[0] * 0 for weight in self.weights)


def _sum(collected: dict[nn.Parameter, torch.Tensor], bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Sum over the ranks what was collected for the parameters of a bucket; the bucket itself holds zeros."""
    weights = bucket.parameters()
    parts = [collected[w] if w in collected else torch.zeros_like(w, dtype=torch.float64) for w in weights]

    def take(summed: Any) -> torch.Tensor:
        pieces = summed.value()[0].split([part.numel() for part in parts])
        collected.update((weight, piece.view(weight.shape)) for weight, piece in zip(weights, pieces))
        return bucket.buffer()

    return all_reduce(torch.cat([part.flatten() for part in parts]), async_op=True).get_future().then(take)
