"""Several ranks give what one gives. Three launches of two processes; each does many things, as a launch takes long."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks_at_work
import torch
from small_training import assert_equal_states

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.plan.traffic import step_traffic
from ctpa_vqgan.sealed import load_sealed

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "bundles/ctpa_vqgan/configs"
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch was built without gloo"),
    pytest.mark.usefixtures("python_as_it_was"),
]


def can_talk():
    """Whether two processes of this machine reach each other: gloo needs a network interface that is up."""
    state = Path("/sys/class/net/lo/operstate")
    flags = Path("/sys/class/net/lo/flags")
    return not state.is_file() or int(flags.read_text(), 16) & 1


needs_network = pytest.mark.skipif(not can_talk(), reason="the loopback interface is down: ranks cannot talk")


def launch(*words, log):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.Popen([*LAUNCH, *map(str, words)], env=environment, stdout=log, stderr=subprocess.STDOUT)


# -- the same answer ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one rank finds, and what each of two finds at the same time."""
    folder = tmp_path_factory.mktemp("ranks")
    with (folder / "log").open("w") as log:
        process = launch(ROOT / "tests/ranks_at_work.py", folder, log=log)
        one = ranks_at_work.everything(folder / "one")
        assert process.wait(timeout=400) == 0, (folder / "log").read_text()[-3000:]
    return [one, *(torch.load(folder / f"rank_{rank}.pt") for rank in range(2))]


pytestmark.append(needs_network)


@pytest.mark.parametrize("run", ["float64", "float32", "residual", "bad number", "memory"])
def test_ranks_have_one_state_to_the_last_bit(found, run):
    _, first, second = found
    assert_equal_states(first[run]["states"], second[run]["states"])
    assert first[run]["trainer"]["terms"] == second[run]["trainer"]["terms"]


@pytest.mark.parametrize(
    ("run", "atol"), [("float64", 1e-9), ("float32", 1e-5), ("residual", 1e-5), ("bad number", 1e-5), ("memory", 1e-5)]
)
def test_two_ranks_give_what_one_gives(found, run, atol):
    one, two, _ = found
    assert_equal_states(one[run]["states"], two[run]["states"], atol=atol, rtol=0)
    assert one[run]["trainer"]["terms"] == pytest.approx(two[run]["trainer"]["terms"], abs=atol)
    assert torch.equal(one[run]["trainer"]["codes"]["counts"], two[run]["trainer"]["codes"]["counts"])


@pytest.mark.parametrize("run", ["float64", "float32", "residual"])
def test_dead_codes_were_restarted_in_these_runs(found, run):
    assert found[0][run]["restarts"] == found[1][run]["restarts"] > 3


def test_a_bad_number_of_one_rank_skips_the_step_on_all(found):
    assert [rank["bad number"]["trainer"]["skipped_steps"] for rank in found] == [1, 1, 1]


def test_memory_that_runs_out_on_one_rank_halves_the_micro_batches_of_all(found):
    assert [rank["memory"]["micro_batch_size"] for rank in found] == [1, 1, 1]
    assert [rank["float32"]["trainer"]["micro_batch_size"] for rank in found] == [None] * 3


@pytest.mark.parametrize("number", ["three cases", "one case"])
def test_a_shared_validation_has_the_metrics_of_one_rank(found, number):
    one, *two = (rank[number] for rank in found)
    for rank in two:
        assert rank["cases"] == one["cases"]
        assert rank["metrics"] == pytest.approx(one["metrics"], abs=1e-6)


def test_all_ranks_leave_out_what_one_cannot_read(found):
    assert [rank["quarantine"] for rank in found] == [["3.nii"]] * 3


def test_ranks_that_would_train_something_else_are_refused_by_rank_and_knob(found):
    one, *two = (rank["differing"] for rank in found)
    assert one is None
    assert two == ["rank 1: expected to train as rank 0 with seed=0, now 1; give all the same"] * 2


def test_an_error_stays_one_line_after_the_ranks_have_joined(found):
    assert [rank["one line"] for rank in found[1:]] == [True, True], "PyTorch has a hook that loses the line"


def test_all_ranks_end_on_an_error_of_rank_0(found):
    assert [rank["error"] for rank in found] == ["runs: another process works there"] * 3


def test_the_traffic_is_what_the_plan_foretells(found):
    plan = step_traffic(*ranks_at_work.large_networks(), (16, 16, 16), batch_size=4, world_size=2)
    assert found[1]["traffic"] == pytest.approx(2 * plan.sent_per_rank, rel=0.1)


# -- the bundle --------------------------------------------------------------------------------------------------------

TINY = {
    "patch_size": "[32,32,16]",
    "num_samples": 3,
    "channels": "[4,8]",
    "num_embeddings": 16,
    "codebook_init_steps": 1,
    "max_epochs": 10,
    "val_interval": 1000,
    "batch_size": 3,
    "num_workers": 1,
    "adversarial_start": 3,
    "discriminator_channels": 4,
    "discriminator_layers": 1,
    "progress": "false",
    "save_interval": 2,
}


def test_a_rank_that_is_killed_ends_the_job_and_one_rank_goes_on_as_if_nothing_had_been(phantom_folder, tmp_path):
    words = ["-m", "monai.bundle", "run", "training", "--bundle_root", ROOT / "bundles/ctpa_vqgan"]
    words += ["--config_file", f"['{CONFIGS / 'train.yaml'}','{CONFIGS / 'multi_gpu_train.yaml'}']"]
    words += ["--dataset_dir", phantom_folder, "--output_dir", tmp_path / "two"]
    for knob, value in TINY.items():
        words += [f"--{knob}", value]
    with (tmp_path / "log").open("w+") as log:
        job = launch(*words, log=log)
        try:
            saved = tmp_path / "two/checkpoints/checkpoint_000000004.pt.sha256"
            deadline = time.monotonic() + 300
            while not saved.is_file():
                assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.05)
            os.kill(children(job.pid)[1], signal.SIGKILL)
            killed = time.monotonic()
            assert job.wait(timeout=30) != 0
        finally:
            job.kill()
    assert time.monotonic() - killed < 30
    told = (tmp_path / "log").read_text()
    # rank 0 hears of it by torchrun's signal in the middle of a step, or after it, or by the end of the connection
    heard = [
        "SIGTERM: nothing new is saved; the same",
        "SIGTERM: saved at iteration",
        "error: another rank has ended or",
    ]
    assert any(line in told for line in heard), told[-3000:]
    assert "3 patches an iteration, 1 or 2 on each of 2 ranks, learning rate 0.0003" in told
    assert told.count("patches an iteration") == 1, "rank 0 speaks for both"
    assert len(list((tmp_path / "two/tensorboard").iterdir())) == 1, "and writes for both"
    assert load_sealed(sorted((tmp_path / "two/checkpoints").glob("*.pt"))[-1])["trainer"]["iteration"] >= 4
    one, two = (train_alone(phantom_folder, tmp_path / name) for name in ("one", "two"))
    assert_equal_states([one], [two])


def train_alone(data, output):
    """The weights that one rank has in the end, from wherever it goes on."""
    settings = [f"--set={knob}={value}" for knob, value in TINY.items()]
    assert main(["train", "--data", str(data), "--output", str(output), *settings]) == 0
    return torch.load(output / "model.pt")


def test_an_evaluation_of_two_ranks_is_one_evaluation_although_a_volume_is_damaged(phantom_folder, tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(phantom_folder, data)
    damaged = data / "phantom_01.nii.gz"  # the second rank's
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    knobs = ["compared_cases=0", "shift_cases=0", "phantoms=false", "pictured_cases=0", "save_volumes=false"]
    words = ["-m", "ctpa_vqgan", "evaluate", "--data", data, "--output", output, *(f"--set={knob}" for knob in knobs)]
    with (tmp_path / "log").open("w") as log:
        assert launch(*words, log=log).wait(timeout=400) == 1
    told = (tmp_path / "log").read_text()
    assert "1 of 1 volumes were left out" in told, told[-3000:]
    metrics = json.loads((output / "metrics.json").read_text())
    assert [row["case"] for row in metrics["cases"]] == ["phantom_00", "phantom_02"]
    assert [row["case"] for row in metrics["refused"]] == ["phantom_01"]
    assert (output / "report.html").is_file()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
