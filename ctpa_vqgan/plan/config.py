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
        precision = self.parser()["precision"]
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
        """Of a step in this precision with some knobs otherwise."""
        parser = self.parser(**knobs)
        if discriminators:
            check_discriminators(parser["patch_size"], parser["discriminator_layers"], parser["loss_weights"])
        return step_memory(parser, self.device_type, precision or self.precision, discriminators)

    def needed(self, memory: StepMemory) -> int:
        """Bytes that the device must have."""
        return memory.device_bytes if self.device_type == "cuda" else memory.peak


def _device(given: Any) -> torch.device:
    """What the knob names; it need not be in this machine."""
    with contextlib.suppress(RuntimeError, TypeError):
        if (device := torch.device(given)).type in ("cpu", "cuda"):
            return device
    raise UserError(f"device: expected cpu, cuda or cuda:<number>, found {given!r}")
