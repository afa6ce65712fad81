"""docs/configuration.md is what its script makes of the configs."""

import sys

import pytest
import yaml
from pages import ROOT, read

sys.path.append(str(ROOT / "docs"))
import make_configuration as reference

PAGE = read("docs/configuration.md")


def test_the_reference_is_up_to_date():
    assert reference.written(PAGE) == PAGE, "docs/configuration.md is stale: python docs/make_configuration.py mends it"


def test_every_knob_that_training_has_is_in_the_reference():
    text = (reference.CONFIGS / "train.yaml").read_text()
    there = yaml.safe_load(text[text.index("# ---- where") : text.index("# ---- networks")])
    listed = [knob for _, content in reference.sections(text) for knob in reference.knobs(content)]
    assert {knob.name for knob in listed} == set(there)
    assert [knob for knob in listed if f"| `{knob.name}` |" not in PAGE] == []


@pytest.mark.parametrize("config", reference.OWN)
def test_every_knob_of_another_config_is_in_the_reference(config):
    """They stand at its top, with a plain value; what follows is wiring."""
    listed = [knob.name for knob in reference.knobs((reference.CONFIGS / config).read_text())]
    content = yaml.safe_load((reference.CONFIGS / config).read_text())
    assert listed == list(content)[: len(listed)]
    wiring = list(content)[len(listed) :]
    assert not [key for key in wiring if key.isidentifier() and not isinstance(content[key], dict | list | str)]


@pytest.mark.parametrize(
    ("knob", "users"),
    {
        "adversarial_start": {"train"},
        "blend_mode": {"train", "evaluate", "sweep", "inference"},
        "channels": {"train", "evaluate", "sweep", "inference", "encode", "decode"},
        "shard": {"evaluate", "inference", "encode", "decode"},
        "ckpt_path": {"evaluate", "sweep", "inference", "encode", "decode"},
    }.items(),
)
def test_who_uses_a_knob_is_read_from_the_configs(knob, users):
    workflows = {"train", "evaluate", "sweep", "inference", "encode", "decode"}
    assert {name for name in workflows if knob in reference.used_by(name)} == users


def test_what_an_overlay_changes_is_told_as_it_is_written(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("# What for.\na: 1.0e-4  # why\nb: {c: 1,  # why\n  d: 2}\n")
    assert reference.values(overlay) == {"a": "1.0e-4", "b": "{c: 1, d: 2}"}
