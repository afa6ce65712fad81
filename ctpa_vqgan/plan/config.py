"""train.yaml with overlays and settings, checked as for training, and asked what if."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ctpa_vqgan.bundle import check_discriminators
from ctpa_vqgan.cli.knobs import checked, known_knobs, parse_setting, read_yaml
from ctpa_vqgan.cli.workflows import find_bundle
from ctpa_vqgan.plan.memory import StepMemory, step_memory


class TrainingConfig:
    """Parsed anew whenever something else is to be tried: what a parser has built stays with it.

    Args:
        overlays: config files of a few knobs.
        settings: ``knob=value``, the last word.
        bundle: folder of the bundle.

    Raises:
        UserError: a key, file or value that does not fit.
    """

    def __init__(self, overlays: Sequence[str] = (), settings: Sequence[str] = (), bundle: str | None = None) -> None:
        self.root = find_bundle(bundle)
        train = self.root / "configs/train.yaml"
        known = known_knobs([train])
        self.content = ConfigParser.load_config_files([str(train), *map(str, overlays)])
        self.overrides: dict[str, Any] = {"bundle_root": str(self.root)}
        for overlay in overlays:  # YAML reads 1e-4 as text
            mended = checked(read_yaml(Path(overlay)), known, str(overlay))
            self.overrides |= {key: value for key, value in mended.items() if key[0] != "+"}
        self.overrides |= checked(dict(map(parse_setting, settings)), known, "--set")
        self.device = self.overrides.get("device")
        self.device_type = torch.device(self.device).type if isinstance(self.device, str) else "cuda"
        precision = self.parser()["precision"]
        self.parser().get_parsed_content("checks")
        bf16 = self.device_type == "cuda" if precision == "auto" else precision == "bf16"
        self.precision = "bf16" if bf16 else "float32"

    def parser(self, **knobs: Any) -> ConfigParser:
        """With some knobs otherwise; the device is the CPU if none is among them."""
        parser = ConfigParser(copy.deepcopy(self.content))
        for key, value in (self.overrides | {"device": "cpu"} | knobs).items():
            parser[key] = value
        return parser

    def memory(self, discriminators: bool, precision: str | None = None, **knobs: Any) -> StepMemory:
        """Of a step in this precision with some knobs otherwise."""
        parser = self.parser(**knobs)
        if discriminators:
            check_discriminators(parser["patch_size"], parser["discriminator_layers"], parser["loss_weights"])
        return step_memory(parser, self.device_type, precision or self.precision, discriminators)

    def needed(self, memory: StepMemory) -> int:
        """Bytes that the device must have."""
        return memory.device_bytes if self.device_type == "cuda" else memory.peak
