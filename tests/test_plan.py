"""What is foretold of a training is what a training takes."""

import contextlib
import functools
import io
import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.handlers import inference_weights
from ctpa_vqgan.inferers.memory import LiveBytes
from ctpa_vqgan.plan import StepMemory, make_plan, step_memory
from ctpa_vqgan.plan import config as config_module
from ctpa_vqgan.plan import run as run_module
from ctpa_vqgan.plan.config import TrainingConfig
from ctpa_vqgan.plan.memory import RandomBatches, make_parts, make_trainer
from ctpa_vqgan.plan.trial import Trial

TINY = [
    "device=cpu",
    "patch_size=[32,32,32]",
    "factor=[2,2,2]",
    "channels=[16]",
    "num_res_blocks=[0,0]",
    "num_embeddings=64",
    "embedding_dim=4",
    "batch_size=1",
    "adversarial_start=1",
    "discriminator_channels=4",
    "discriminator_layers=1",
]
WITHOUT = ["loss_weights::adversarial=0", "loss_weights::feature_matching=0"]  # discriminators
BLOCKS = "num_res_blocks=[1,1]"
WITHIN = 0.15
CASES = {
    "with discriminators": (("batch_size=3",), True),
    "checkpointing": ((BLOCKS, "checkpointing=true"), False),
    "micro-batches of 2": (("batch_size=3", "micro_batch_size=2"), False),
    "two codebooks": (("quantizer=residual",), False),
    "two levels and no codebook": (
        ("factor=[4,4,4]", "channels=[8,16]", BLOCKS, "quantizer=fsq", "fsq_levels=[5,5,5]", "embedding_dim=3"),
        False,
    ),
}


@functools.cache
def counted(discriminators, *settings):
    """Memory of a step with these settings besides ``TINY``, counted once for all tests."""
    return step_memory(TrainingConfig(settings=[*TINY, *settings]).parser(), "cpu", "float32", discriminators)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """What the command prints and writes for ``TINY`` with the discriminators at work, steps tried."""
    file, words = tmp_path_factory.mktemp("plan") / "plan.json", [word for s in TINY for word in ("--set", s)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["plan", *words, "--num-volumes", "20", "--calibrate", "--json", str(file)]) == 0
    return printed.getvalue(), json.loads(file.read_text())


def measured(parser, discriminators):
    """Live bytes at the worst moment of a few real steps, and those saved for backward in a micro-batch."""
    saved, kept = {}, []
    with LiveBytes() as live:
        parts = make_parts(parser)
        for module in parts[:4]:
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.detach()  # seen from here on
        known = {tensor.data_ptr() for tensor in parts.network.state_dict().values()}
        total = parts.losses.total

        def note(*args):
            kept.append(sum(size for place, size in saved.items() if place not in known))
            return total(*args)

        def pack(tensor):
            if not kept:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        parts.losses.total = note
        for optimizer in parts[4 : 6 if discriminators else 5]:  # as after the first step
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
        batches = RandomBatches(1, (parser["batch_size"], 1, *parser["patch_size"]))
        trainer = make_trainer(parts, batches, parser, "cpu", "float32", discriminators)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trainer.run()
    return live.peak, kept[0]


@pytest.mark.parametrize(("settings", "discriminators"), CASES.values(), ids=CASES)
def test_memory_is_that_of_real_steps(settings, discriminators):
    planned = counted(discriminators, *settings)
    peak, saved = measured(TrainingConfig(settings=[*TINY, *settings]).parser(), discriminators)
    assert planned.peak == pytest.approx(peak, rel=WITHIN)
    assert planned.activations == pytest.approx(saved, rel=WITHIN)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, of which the allocator tells its peak")
def test_memory_is_what_cuda_allocates():
    settings = ["device=cuda", "patch_size=[128,128,128]", "adversarial_start=1"]
    plan = make_plan(settings=settings, num_volumes=2, calibrate=True)
    assert plan["memory"]["peak"] == pytest.approx(plan["trials"][-1]["peak"], rel=WITHIN)


def test_counting_leaves_the_next_real_step_as_it_was():
    config = TrainingConfig(settings=TINY)

    def loss():
        torch.manual_seed(0)
        parser = config.parser()
        trainer = make_trainer(make_parts(parser), RandomBatches(1, (1, 1, 16, 16, 16)), parser, "cpu", "bf16", False)
        trainer.run()
        return trainer.terms["loss"]

    before = loss()
    step_memory(config.parser(), "cuda", "bf16", False)
    assert loss() == before


def test_checkpointing_and_bf16_take_less_and_larger_micro_batches_more():
    plain, blocks = counted(False), counted(False, BLOCKS)
    assert counted(False, BLOCKS, "checkpointing=true").activations < 0.8 * blocks.activations
    bf16 = step_memory(TrainingConfig(settings=[*TINY, BLOCKS]).parser(), "cuda", "bf16", False)
    assert bf16.activations < 0.75 * blocks.activations
    two = counted(False, "batch_size=3", "micro_batch_size=2")
    assert two.activations == pytest.approx(2 * plain.activations, rel=0.05)


def test_the_parts_are_those_of_the_config(calibrated):
    memory, parts = calibrated[1]["memory"], make_parts(TrainingConfig(settings=TINY).parser())
    learnt = sum(4 * p.numel() for module in (parts.network, parts.discriminator) for p in module.parameters())
    assert memory["gradients"] == learnt
    # and a counter of steps for every tensor
    assert memory["optimizer"] == pytest.approx(2 * learnt, rel=0.02)
    assert memory["weights"] > learnt, "the codebook too"
    assert memory["peak"] > sum(memory[p] for p in ("weights", "gradients", "optimizer", "ema", "activations"))


def test_the_disk_is_what_torch_writes(tmp_path, calibrated):
    plan = calibrated[1]
    parts = make_parts(TrainingConfig(settings=TINY).parser())
    trainer_parser = TrainingConfig(settings=TINY).parser()
    make_trainer(parts, RandomBatches(1, (1, 1, 32, 32, 32)), trainer_parser, "cpu", "float32", True).run()
    torch.save([part.state_dict() for part in parts if part is not parts.losses], tmp_path / "checkpoint.pt")
    torch.save(inference_weights(parts.ema.module), tmp_path / "model.pt")
    names = {"checkpoint": "checkpoint.pt", "weights": "model.pt"}
    for key, name in names.items():
        # every tensor has a header of a few hundred bytes, which tiny networks feel
        tensors = 500
        assert plan["disk"][key] <= (tmp_path / name).stat().st_size < plan["disk"][key] + tensors * 700
    assert plan["disk"]["checkpoints"] == plan["disk"]["checkpoint"] * (plan["disk"]["kept"] + 1)


# -- what follows from the count ---------------------------------------------------------------------------------------


@pytest.fixture
def counted_easily(monkeypatch):
    """A MiB per patch of a micro-batch, half of it with checkpointing and twice with discriminators."""

    def easily(parser, device_type, precision, discriminators):
        share = 0.5 if parser["checkpointing"] else 1
        peak = 2**20 * parser["micro_batch_size"] * share * (2 if discriminators else 1)
        return StepMemory(0, 0, 0, 0, 0, int(peak))

    monkeypatch.setattr(config_module, "step_memory", easily)


def write_volume(path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((48, 44, 40), np.int16), np.diag([7.5, 8, 9, 1])), path)


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_steps_of_a_data_set_are_those_of_its_patches(tmp_path, sampling, counted_easily):
    for name in "abc":
        write_volume(tmp_path / f"{name}.nii")
    settings = [*TINY, "num_samples=5", "max_epochs=3", "batch_size=3", "stride=[16,16,16]"]
    amount = make_plan(data=str(tmp_path), settings=[*settings, f"patch_sampling={sampling}"])["amount"]
    # 48 x 44 x 40 voxels: 2 x 2 x 2 windows of 32
    patches = 2 * (5 if sampling == "random" else 8)
    assert (amount["volumes"], amount["training_volumes"], amount["patches_per_epoch"]) == (3, 2, patches)
    assert amount["steps_per_epoch"] == -(-patches // 3)
    assert amount["steps"] == 3 * amount["steps_per_epoch"]
    assert (amount["voxels"], amount["data_bytes"]) == (3 * 48 * 44 * 40, 2 * 3 * 48 * 44 * 40)


def test_so_many_patches_that_nobody_could_list_them_are_counted(tmp_path, counted_easily):
    write_volume(tmp_path / "a.nii")
    settings = [*TINY, "num_samples=1000000000000"]
    assert make_plan(data=str(tmp_path), settings=settings)["amount"]["steps_per_epoch"] == 10**12
    assert make_plan(settings=settings, num_volumes=3)["amount"]["steps_per_epoch"] == 2 * 10**12


def test_a_knob_may_refer_to_another(tmp_path, counted_easily):
    (tmp_path / "overlay.yaml").write_text("micro_batch_size: '@batch_size'\nnum_samples: '@max_epochs'\n")
    settings = [*TINY, "batch_size=4", "max_epochs=7"]
    plan = make_plan(overlays=[tmp_path / "overlay.yaml"], settings=settings, num_volumes=3)
    assert plan["knobs"]["micro_batch_size"] == 4
    assert plan["amount"]["patches_per_epoch"] == 2 * 7


def test_without_data_typical_volumes_are_assumed(counted_easily):
    random = make_plan(settings=TINY, num_volumes=20)["amount"]
    grid = make_plan(settings=["device=cpu", "channels=[4,8]", "patch_sampling=grid", "batch_size=4"], num_volumes=20)[
        "amount"
    ]
    assert random["voxels"] == 20 * 512 * 512 * 604
    # two of twenty are held out; 3 x 3 x 6 windows of 256 x 256 x 128 by steps of 192 x 192 x 96
    assert random["patches_per_epoch"] == grid["patches_per_epoch"] == 18 * 54


def test_ranks_share_the_patches_of_a_step_and_keep_the_steps(counted_easily):
    settings = [*TINY, "batch_size=5", "num_samples=4", "max_epochs=2", "micro_batch_size=4"]
    one, three = (make_plan(settings=settings, num_volumes=5, world_size=number) for number in (1, 3))
    assert one["amount"] == three["amount"]
    assert three["amount"]["steps"] == 2 * 4  # 4 x 4 patches by fives
    assert three["ranks"]["patches_per_step"] == 2
    # 2, 2 and 1 patches in three steps, then one rank has the last patch
    assert three["ranks"]["share_at_work"] == 16 / (3 * 7)
    assert (one["ranks"]["share_at_work"], one["ranks"]["sent_per_epoch"]) == (1, 0)


def test_a_rank_needs_memory_for_its_own_patches_and_for_the_others(monkeypatch):
    asked = []

    def easily(parser, *rest):
        asked.append(parser["batch_size"])
        return StepMemory(0, 0, 0, 0, 0, 1000)

    monkeypatch.setattr(config_module, "step_memory", easily)
    plan = make_plan(settings=[*TINY, "batch_size=5"], num_volumes=2, world_size=2)
    assert asked == [3]
    parts = make_parts(TrainingConfig(settings=TINY).parser())
    buckets = sum(w.nbytes for part in (parts.network, parts.discriminator) for w in part.parameters())
    assert plan["memory"]["ranks"] == buckets + plan["ranks"]["traffic"][-1]["reservoir"]
    assert plan["memory"]["peak"] == 1000 + plan["memory"]["ranks"]


def test_time_of_ranks_is_their_share_of_the_patches_and_the_sending(counted_easily, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "try_steps", lambda *given: Trial("a device", 6.0, None))
    words = [word for s in [*TINY, *WITHOUT, "batch_size=6"] for word in ("--set", s)]
    plan = make_plan(settings=words[1::2], num_volumes=2, world_size=2, calibrate=True, network_gbit=0.001)
    sending = plan["ranks"]["traffic"][0]["sent_per_rank"] * 8 / 1e6
    (trial,) = plan["trials"]
    assert trial["seconds_of_ranks"] == pytest.approx(3 + sending)
    assert plan["efficiency"] == pytest.approx(6 / (2 * (3 + sending)))
    assert plan["days"] == pytest.approx((3 + sending) * plan["amount"]["steps"] / 86400)
    options = ["--num-volumes", "2", "--world-size", "2", "--network-gbit", "0.001", "--calibrate"]
    assert main(["plan", *words, *options]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"of the ranks {3 + sending:.3g} s by formula: its patches, then sending" in lines
    assert f"time of sending per step {sending:.3g} s at 0.001 Gbit/s, assumed" in lines
    assert any(line.startswith(f"efficiency {plan['efficiency']:.1%}") for line in lines)


def test_discriminators_add_to_the_traffic_when_they_join(counted_easily):
    plan = make_plan(settings=[*TINY, "batch_size=2"], num_volumes=2, world_size=2)
    alone, joined = plan["ranks"]["traffic"]
    assert alone["discriminator_gradients"] == 0
    assert joined["sent_per_rank"] - alone["sent_per_rank"] == joined["discriminator_gradients"] > 0
    assert plan["ranks"]["sent_per_epoch"] == joined["sent_per_rank"] * plan["amount"]["steps_per_epoch"]


def test_discriminators_count_only_if_the_run_is_long_enough_for_them(counted_easily):
    short = make_plan(settings=[*TINY, "adversarial_start=1000000", "max_epochs=1"], num_volumes=2)
    unwanted = make_plan(settings=[*TINY, *WITHOUT], num_volumes=2)
    long = make_plan(settings=TINY, num_volumes=2)
    assert (short["discriminators"], unwanted["discriminators"], long["discriminators"]) == (False, False, True)
    assert 2 * short["memory"]["peak"] == 2 * unwanted["memory"]["peak"] == long["memory"]["peak"]


def test_a_small_device_is_told_the_micro_batch_that_fits(counted_easily, capsys):
    words = [word for s in [*TINY, *WITHOUT, "batch_size=8", "micro_batch_size=8"] for word in ("--set", s)]
    assert main(["plan", *words, "--device-gb", "0.0022"]) == 0
    assert "micro_batch_size=2 does" in capsys.readouterr().out
    assert main(["plan", *words, "--device-gb", "0.009"]) == 0
    assert "yes" in capsys.readouterr().out


def test_a_device_too_small_for_one_patch_is_told_what_other_knobs_bring(counted_easily, capsys):
    words = [word for s in [*TINY, *WITHOUT] for word in ("--set", s)]
    assert main(["plan", *words, "--device-gb", "0.0006"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "fits no not with micro_batch_size=1" in lines
    assert "checkpointing=true 0.5 MiB fits" in lines
    assert "precision=bf16 1.0 MiB too much still" in lines
    assert "patch_size=[16,32,32] 1.0 MiB too much still" in lines
    assert "peak measured not measured needs --calibrate and CUDA" in lines


def test_the_command_prints_and_writes_and_times_real_steps(calibrated):
    printed, plan = calibrated
    peak, _ = measured(TrainingConfig(settings=TINY).parser(), True)
    assert plan["memory"]["peak"] == pytest.approx(peak, rel=WITHIN)
    alone, joined = plan["trials"]
    assert (alone["steps"], joined["steps"]) == (1, plan["amount"]["steps"] - 1)
    assert 0 < alone["seconds"] < joined["seconds"] < 60
    assert plan["days"] == pytest.approx(sum(t["seconds"] * t["steps"] for t in plan["trials"]) / 86400)
    assert "with discriminators" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "patch_sizes=[32,32,32]"], "did you mean patch_size"),
        (["--set", "patch_size=[30,32,32]"], "multiples of the factor"),
        (["--set", "patch_size=[16,16,16]"], "the discriminators need sides"),
        (["--device-gb", "0"], "--device-gb"),
        (["--num-volumes", "1"], "--num-volumes"),
        (["--world-size", "0"], "--world-size: expected at least 1 rank, found 0"),
        (["--world-size", "5"], "batch_size: expected at least a patch for each of 5 ranks"),
        (["--network-gbit", "0"], "--network-gbit: expected Gbit/s above 0, found 0"),
        (["--data", "nowhere"], "no such file or folder"),
        (["--overlay", "nope.yaml"], "nope.yaml: no such config file"),
        (["--set", "val_fraction=1.5"], "val_fraction: expected at least 0 and less than 1"),
        (["--set", "patch_sampling=all"], "patch_sampling: expected 'random' or 'grid', found 'all'"),
        (["--set", "patch_size=[4096,4096,4096]"], "(4096, 4096, 4096) voxels"),
        (["--set", "device=tpu9"], "device: expected cpu, cuda or cuda:<number>, found 'tpu9'"),
        (["--set", "device=meta"], "device: expected cpu, cuda"),
        (["--set", "device=[0]"], "device: expected cpu, cuda"),
        (["--calibrate", "--set", "device=cuda:99"], "device: cuda:99 was asked for"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, message, capsys):
    assert main(["plan", "--set", "channels=[4,8]", *arguments]) == 1
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize("option", ["--data", "--bundle"])
def test_a_path_that_monai_would_run_as_code_is_refused(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "$open('ran', 'w')"
    assert main(["plan", option, code]) == 1
    assert capsys.readouterr().err == (
        f"error: {option} {code}: expected a path, found code by its first letter; write ./ before it\n"
    )
    assert not (tmp_path / "ran").exists()


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom ctpa_vqgan.__main__ import main\n"
        "try:\n    main(['plan', '--help'])\nexcept SystemExit:\n"
        "    print([m for m in ('torch', 'monai', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
