"""A misspelt key or a value of the wrong kind is refused before anything runs."""

import pytest

from ctpa_vqgan.cli.knobs import checked, known_knobs, parse_setting, read_yaml
from ctpa_vqgan.cli.workflows import find_bundle
from ctpa_vqgan.errors import UserError

KNOWN = {
    "checkpointing": False,
    "max_epochs": 30,
    "g_learning_rate": 3.0e-4,
    "progress": True,
    "blend_mode": "gaussian",
    "patch_size": [256, 256, 128],
    "loss_weights": {"l1": 1.0, "adversarial": 0.05},
    "init_path": None,
    "device": "$torch.device('cpu')",
    "network_def": {"_target_": "ctpa_vqgan.networks.VQGAN", "norm": "@norm"},
    "train": {"handlers": [{"_target_": "ctpa_vqgan.handlers.Progress"}]},
}


def check(**settings):
    return checked(settings, KNOWN, "--set")


def refusal(settings, where="--set"):
    with pytest.raises(UserError) as error:
        checked(settings, KNOWN, where)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max_epochs=3", ("max_epochs", 3)),
        ("patch_size=[64, 64,32]", ("patch_size", [64, 64, 32])),
        ("progress=false", ("progress", False)),
        ("init_path=null", ("init_path", None)),
        ("output_dir=a=b", ("output_dir", "a=b")),
        ("loss_weights::l1=2", ("loss_weights::l1", 2)),
        ("device=$torch.device('cpu')", ("device", "$torch.device('cpu')")),
    ],
)
def test_a_setting_is_a_knob_and_its_value_in_yaml(text, value):
    assert parse_setting(text) == value


@pytest.mark.parametrize("text", ["max_epochs", "=3", "", "patch_size=[1, 2"])
def test_a_setting_that_is_none_is_shown(text):
    with pytest.raises(UserError) as error:
        parse_setting(text)
    assert str(error.value).startswith(f"--set {text}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("max_epoch", "max_epochs"),
        ("patchsize", "patch_size"),
        ("g_learning_rates", "g_learning_rate"),
        ("loss_weights::L1", "loss_weights::l1"),
        ("train::handler", "train::handlers"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest(key, nearest):
    assert refusal({key: 1}) == f"--set: the bundle has no knob {key}; did you mean {nearest}?"


def test_a_key_like_no_other_is_refused_all_the_same():
    assert refusal({"zzz": 1}, "my.yaml") == "my.yaml: the bundle has no knob zzz"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("max_epochs", "many", "a whole number such as 30, found 'many'"),
        ("max_epochs", 2.5, "a whole number such as 30, found 2.5"),
        ("max_epochs", True, "a whole number such as 30, found True"),
        ("max_epochs", [3], "a whole number such as 30, found [3]"),
        ("g_learning_rate", "fast", "a number such as 0.0003, found 'fast'"),
        ("progress", "maybe", "true or false such as True, found 'maybe'"),
        ("progress", 1, "true or false such as True, found 1"),
        ("blend_mode", 3, "text such as gaussian, found 3"),
        ("patch_size", 64, "a list such as [256, 256, 128], found 64"),
        ("loss_weights", [1], "a mapping such as"),
        ("loss_weights::l1", "much", "a number such as 1.0, found 'much'"),
        ("progress", [True, False], "true or false such as True, found [True, False]"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_an_example(key, value, expected):
    message = refusal({key: value})
    assert message.startswith(f"--set: {key} expects {expected}")


def test_checkpointing_goes_by_level_too():
    assert checked({"checkpointing": [True, False]}, KNOWN, "--set") == {"checkpointing": [True, False]}
    assert refusal({"checkpointing": [True, "no"]}).startswith("--set: checkpointing[1] expects true or false")


def test_a_value_that_is_missing_is_refused():
    assert refusal({"max_epochs": None}).startswith("--set: max_epochs needs a value, a whole number such as 30")


@pytest.mark.parametrize(
    ("key", "value", "result"),
    [
        ("g_learning_rate", "1e-4", 1e-4),  # YAML takes it for text
        ("g_learning_rate", 1, 1),
        ("max_epochs", 4.0, 4),
        ("max_epochs", "1e1", 10),
        ("init_path", "weights/model.pt", "weights/model.pt"),
        ("device", "cuda:1", "cuda:1"),
        ("blend_mode", "$torch.device('cpu')", "$torch.device('cpu')"),  # word for word the bundle's own
        ("max_epochs", "@loss_weights::l1", "@loss_weights::l1"),
        ("network_def::num_groups", 4, 4),  # an argument that the config leaves at its default
        ("train::handlers::0::label", "run", "run"),
        ("+train::handlers", [], []),
    ],
)
def test_a_value_of_the_right_kind_is_taken(key, value, result):
    taken = check(**{key: value})[key]
    assert taken == result
    assert type(taken) is type(result)


def test_the_knobs_of_later_configs_join_those_of_earlier_ones(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1\ny: 2\n")
    (tmp_path / "b.yaml").write_text("y: 3\nz: 4\n")
    assert known_knobs([tmp_path / "a.yaml", tmp_path / "b.yaml"]) == {"x": 1, "y": 3, "z": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such config file"), ("a: [", "not YAML"), ("- a\n", "expected 'knob: value' lines, found list")],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text, message):
    path = tmp_path / "my.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_every_knob_of_the_bundle_has_a_kind_to_check_against():
    known = known_knobs([find_bundle() / "configs/train.yaml"])
    for key, value in known.items():
        assert checked({key: value}, known, "itself") == {key: value}
