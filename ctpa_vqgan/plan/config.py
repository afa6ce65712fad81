"""train.yaml with overlays and settings, checked as for training, and asked what if."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ctpa_vqgan.bundle import check_discriminators
from ctpa_vqgan.cli.knobs import checked, known_knobs, parse_setting, read_yaml
from ctpa_vqgan.cli.workflows import find_bundle
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.plan.memory import StepMemory, step_memory
from ctpa_vqgan.plan.traffic import StepTraffic, patches_per_rank, step_traffic


class TrainingConfig:
    """Parsed anew whenever something else is to be tried: what a parser has built stays with it.

    Args:
        overlays: config files of a few knobs.
        settings: ``knob=value``, the last word.
        bundle: folder of the bundle.
        world_size: number of ranks that train together.

    Raises:
        UserError: a key, file or value that does not fit, or more ranks than patches in a step.
    """

    def __init__(
        self,
        overlays: Sequence[str] = (),
        settings: Sequence[str] = (),
        bundle: str | None = None,
        world_size: int = 1,
    ) -> None:
        self.world_size = world_size
        self.root = find_bundle(bundle)
        train = self.root / "configs/train.yaml"
        known = known_knobs([train])
        self.overrides: dict[str, Any] = {"bundle_root": str(self.root)}
        for overlay in overlays:  # YAML reads 1e-4 as text
            mended = checked(read_yaml(Path(overlay)), known, str(overlay))
            self.overrides |= {key: value for key, value in mended.items() if key[0] != "+"}
        self.overrides |= checked(dict(map(parse_setting, settings)), known, "--set")
        self.content = ConfigParser.load_config_files([str(train), *map(str, overlays)])
        given = self.overrides.get("device", known["device"])
        self.device = None if given == known["device"] else _device(given)
        self.device_type = self.device.type if self.device else "cuda"
        self.check()
        parser = self.parser()
        self.patches_per_rank = patches_per_rank(parser["batch_size"], world_size)
        precision = parser["precision"]
        bf16 = self.device_type == "cuda" if precision == "auto" else precision == "bf16"
        self.precision = "bf16" if bf16 else "float32"

    def parser(self, **knobs: Any) -> ConfigParser:
        """With some knobs otherwise; the device is the CPU if none is among them."""
        parser = ConfigParser(copy.deepcopy(self.content))
        for key, value in (self.overrides | {"device": "cpu"} | knobs).items():
            parser[key] = value
        for key, value in self.overrides.items():  # micro_batch_size: '@batch_size'
            if isinstance(value, str) and value[:1] == "@" and key not in knobs:
                parser[key] = parser.get_parsed_content(key)
        return parser

    def check(self, **knobs: Any) -> None:
        """Refuse what training refuses, with some knobs otherwise.

        Raises:
            UserError: names the knob.
        """
        self.parser(**knobs).get_parsed_content("checks")

    def memory(self, discriminators: bool, precision: str | None = None, **knobs: Any) -> StepMemory:
        """Of a step of one rank in this precision with some knobs otherwise."""
        parser = self.parser(batch_size=self.patches_per_rank, **knobs)
        if discriminators:
            check_discriminators(parser["patch_size"], parser["discriminator_layers"], parser["loss_weights"])
        memory = step_memory(parser, self.device_type, precision or self.precision, discriminators)
        ranks = self._ranks_memory(**knobs) if self.world_size > 1 else 0
        return memory._replace(peak=memory.peak + ranks, ranks=ranks)

    def traffic(self, discriminators: bool, **knobs: Any) -> StepTraffic:
        """Between the ranks in a step, with some knobs otherwise."""
        parser = self.parser(**knobs)
        network, critics = (parser.get_parsed_content(name) for name in ("network", "discriminator"))
        patch_size, batch_size = parser["patch_size"], parser["batch_size"]
        return step_traffic(network, critics if discriminators else None, patch_size, batch_size, self.world_size)

    def _ranks_memory(self, **knobs: Any) -> int:
        """Bytes of a copy of all gradients (buckets), those of the discriminators too, and of gathered latents.

        The statistics of the codebook are summed where they lie.
        """
        parser = self.parser(**knobs)
        modules = [parser.get_parsed_content(name) for name in ("network", "discriminator")]
        learnt = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
        return sum(weight.nbytes for weight in learnt) + self.traffic(False, **knobs).gathered

    def needed(self, memory: StepMemory) -> int:
        """Bytes that the device must have."""
        return memory.device_bytes if self.device_type == "cuda" else memory.peak


def _device(given: Any) -> torch.device:
    """What the knob names; it need not be in this machine."""
    with contextlib.suppress(RuntimeError, TypeError):
        if (device := torch.device(given)).type in ("cpu", "cuda"):
            return device
    raise UserError(f"device: expected cpu, cuda or cuda:<number>, found {given!r}")
