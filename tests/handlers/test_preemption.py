"""Signals: the run saves what it did, leaves with its own exit code, and ends later as if nobody had stopped it."""

import contextlib
import itertools
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.handlers import PeakSignalToNoiseRatio, ValidationHandler, from_engine
from monai.transforms import Compose
from small_training import SIDE, Patches, make_discriminator, make_losses, make_network, make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ctpa_vqgan import ranks
from ctpa_vqgan.__main__ import main
from ctpa_vqgan.data import RandomPatchDataset, patch_loader, prepare_patch
from ctpa_vqgan.errors import Stopped
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.handlers import Checkpoints, ModelExport, Preemption, TensorBoardLog, TrainingLog, ValidationLog
from ctpa_vqgan.inferers import VQGANInferer
from ctpa_vqgan.ranks import RankLost
from ctpa_vqgan.sealed import _Hashing, load_sealed
from ctpa_vqgan.trainer import VQGANTrainer, weight_ema

ROOT = Path(__file__).parents[2]
CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGINT: 130}
# what the run does when the signal comes, the iteration that is counted then and saved, and those with a validation
# when it goes on: an epoch's end that was not reached is done again as a whole
PHASES = {
    "before the first iteration": (0, [2, 4]),
    "at the first moment of a step": (1, [2, 4]),
    "in the middle of a step": (1, [2, 4]),
    "in the last step of an epoch": (2, [2, 4]),
    "while waiting for data": (1, [2, 4]),
    "while waiting for an epoch's first data": (2, [4]),
    "in validation": (2, [2, 4]),
    "in export": (2, [4]),
    "while ranking": (2, [4]),
    "while saving": (2, [4]),
}


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def handlers_as_they_were():
    """Whatever a test does, no signal handler of a run is left."""
    before = {number: signal.getsignal(number) for number in CODES}
    yield
    after = {number: signal.getsignal(number) for number in CODES}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def volume(item):
    """Volumes without files: a case's name says what it holds."""
    coarse = torch.rand(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(int(item["image"]))) * 2400 - 1200
    return {"image": torch.nn.functional.interpolate(coarse, size=(24, 24, 24), mode="trilinear")[0].short()}


class Training:
    """A run of two epochs of two iterations with the bundle's handlers, and a signal in one of the phases."""

    def __init__(self, folder, phase=None, number=None):
        self.phase, self.number, self.folder = phase, number, folder
        self.due_at = PHASES[phase][0] if phase else None
        self.network, self.discriminator = make_network(init_steps=1), make_discriminator()
        self.ema, self.terms, self.samples = weight_ema(self.network, 0.9), {}, []
        self.validated = []
        optimizers = [torch.optim.AdamW(net.parameters(), lr=3e-3) for net in (self.network, self.discriminator)]
        self.state = {"network": self.network, "discriminator": self.discriminator, "ema": self.ema}
        self.state |= {"g_optimizer": optimizers[0], "d_optimizer": optimizers[1]}
        self.log = TensorBoardLog(folder / "tensorboard")
        self.validator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=DataLoader(Patches(1), batch_size=1),
            network=self.ema.module,
            inferer=VQGANInferer(roi_size=(SIDE,) * 3),
            key_val_metric={"psnr": PeakSignalToNoiseRatio(2.0, output_transform=from_engine(["pred", "image"]))},
            val_handlers=[ValidationLog(self.log, max_cases=0)],
        )
        self.validator.add_event_handler(Events.STARTED, lambda: self.validated.append(self.trainer.state.iteration))
        self.validator.add_event_handler(Events.ITERATION_COMPLETED, self.ask, "in validation")
        self.checkpoints = Checkpoints(
            folder / "checkpoints", self.state, keep_last=9, keep_best=2, validator=self.validator
        )
        self.checkpoints._score = self.ranked
        self.trainer = VQGANTrainer(
            device="cpu",
            max_epochs=2,
            train_data_loader=self.loader(),
            epoch_length=2,
            network=self.network,
            losses=make_losses(),
            g_optimizer=optimizers[0],
            discriminator=self.discriminator,
            d_optimizer=optimizers[1],
            ema=self.ema,
            adversarial_start=2,
        )
        add = self.trainer.add_event_handler
        add(Events.STARTED, self.ask, "before the first iteration")
        add(Events.ITERATION_STARTED, self.ask, "at the first moment of a step")
        add(IterationEvents.BACKWARD_COMPLETED, self.ask, "in the middle of a step")
        add(IterationEvents.BACKWARD_COMPLETED, self.ask, "in the last step of an epoch")
        add(Events.ITERATION_COMPLETED, self.look)
        for handler in (
            TrainingLog(self.log, interval=1),
            ValidationHandler(1, self.validator),
            ModelExport(folder, self.ema.module, {}),
            self.checkpoints,
            Preemption(self.checkpoints),
        ):
            handler.attach(self.trainer)

    def loader(self):
        cases = [{"image": str(number), "case": str(number)} for number in range(2)]

        def wait(item):
            first = "while waiting for an epoch's first data"
            self.ask(phase=first if self.trainer.state.iteration == 2 else "while waiting for data")
            return item

        transform = Compose([wait, prepare_patch((-1000.0, 1000.0))])
        dataset = RandomPatchDataset(cases, volume, transform, (SIDE,) * 3, num_samples=1, seed=3)
        return patch_loader(dataset, batch_size=1)

    def look(self, engine):
        self.terms[engine.state.iteration] = {name: float(value).hex() for name, value in engine.terms.items()}
        self.samples += [int(item["sample"]) for item in engine.state.batch]

    def ask(self, engine=None, phase=None):
        """Send the signal where it is due, once."""
        if phase == self.phase and self.trainer.state.iteration == self.due_at and self.number:
            number, self.number = self.number, None
            os.kill(os.getpid(), number)

    def ranked(self, engine):
        self.ask(phase="while ranking")
        return Checkpoints._score(self.checkpoints, engine)

    def run(self):
        try:
            self.trainer.run()
        finally:
            self.log.writer.close()
            # readers go by names, and those of files of one process and second are out of order from the tenth on
            for file in self.folder.glob("tensorboard/events.out.tfevents.*.*"):
                file.rename(file.with_name(f"events.out.tfevents.{time.monotonic_ns():020d}"))
        return self

    def everything(self):
        """All that the run is, as text."""
        content = {name: item.state_dict() for name, item in self.state.items()}
        return "\n".join(flat({**content, "trainer": self.trainer.state_dict(), "best": self.checkpoints.best}))

    def curves(self):
        events = EventAccumulator(str(self.folder / "tensorboard"))
        events.Reload()
        tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(("speed", "memory"))]
        return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def flat(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}/{key}")
    elif isinstance(value, (list, tuple)):
        for key, inner in enumerate(value):
            yield from flat(inner, f"{name}/{key}")
    elif isinstance(value, torch.Tensor):
        yield f"{name} {value.dtype} {value.cpu().numpy().tobytes().hex()}"
    else:
        yield f"{name} {value.hex() if isinstance(value, float) else value!r}"


@pytest.fixture
def signal_in_a_file(monkeypatch):
    """Let the signal come from within ``torch.save``, in the middle of a file."""
    write = _Hashing.write

    def prepare(training):
        def asking(self, data):
            if self.file.tell() > 1000:
                training.ask(phase="while saving" if "checkpoint_" in self.file.name else "in export")
            return write(self, data)

        monkeypatch.setattr(_Hashing, "write", asking)

    return prepare


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    return Training(tmp_path_factory.mktemp("whole")).run()


# -- one signal --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stop(tmp_path, signal_in_a_file):
    """Train until the signal comes, and look at what is left."""

    def run(phase, number):
        stopped, saved = Training(tmp_path, phase, number), PHASES[phase][0]
        signal_in_a_file(stopped)
        with pytest.raises(Stopped) as caught:
            stopped.run()
        assert caught.value.code == CODES[number]
        told = f"saved at iteration {saved}" if saved else "nothing new is saved"
        assert str(caught.value) == f"{number.name}: {told}; the same command goes on"
        files = stopped.checkpoints.files()
        assert [load_sealed(file)["trainer"]["iteration"] for file in files] == [saved] * bool(saved)
        assert not list(tmp_path.rglob(".*")), "no half file is left"
        assert list(stopped.terms) == list(range(1, saved + 1)), "the step under way was finished, and no other begun"
        return stopped

    return run


@pytest.mark.parametrize(
    ("phase", "number"), zip(PHASES, itertools.cycle([signal.SIGUSR1, signal.SIGINT])), ids=lambda value: str(value)
)
def test_each_signal_saves_what_is_done_and_leaves_with_its_own_code(stop, phase, number):
    stop(phase, number)


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_was_told_to_end_goes_on_bit_for_bit_as_if_it_had_not_been(tmp_path, never_stopped, stop, phase):
    stopped = stop(phase, signal.SIGTERM)
    resumed = Training(tmp_path).run()
    assert resumed.validated == PHASES[phase][1]
    assert resumed.everything() == never_stopped.everything()
    assert stopped.terms | resumed.terms == never_stopped.terms
    assert not stopped.terms.keys() & resumed.terms.keys(), "no step is done twice"
    assert stopped.samples + resumed.samples == never_stopped.samples
    seals = [Path(run.folder, "model.pt.sha256").read_text() for run in (resumed, never_stopped)]
    assert seals[0] == seals[1]
    assert resumed.curves() == never_stopped.curves(), "each point is there once"


def test_what_was_compared_there_differs_where_anything_does(tmp_path, never_stopped):
    other = Training(tmp_path)
    with torch.no_grad():
        next(other.network.parameters()).mul_(1 + 1e-6)
    other.run()
    assert other.everything() != never_stopped.everything()
    assert other.terms != never_stopped.terms
    assert [step for step, _ in never_stopped.curves()["loss/l1"]] == [1, 2, 3, 4]
    assert [step for step, _ in never_stopped.curves()["validation/psnr"]] == [2, 4]
    assert len(never_stopped.checkpoints.best) == 2


def small(folder, number=signal.SIGTERM, times=1, save_interval=1):
    """A trainer of two iterations that gets the signal in the second."""
    trainer = make_trainer()
    checkpoints = Checkpoints(folder, {"network": trainer.network}, save_interval)

    def ask(engine):
        if engine.state.iteration == 2:
            for _ in range(times):
                os.kill(os.getpid(), number)

    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, ask)
    checkpoints.attach(trainer)
    Preemption(checkpoints).attach(trainer)
    return trainer, checkpoints


def saved(folder):
    return [load_sealed(file)["trainer"]["iteration"] for file in sorted(folder.glob("checkpoint_*.pt"))]


def test_a_line_says_that_the_step_is_finished_first_and_another_what_was_saved(tmp_path, capsys):
    trainer, _ = small(tmp_path)
    with pytest.raises(Stopped):
        trainer.run()
    assert capsys.readouterr().err.splitlines() == [
        "SIGTERM: finishing the step, then saving; once more to leave at once",
        "SIGTERM: saved at iteration 2; the same command goes on",
    ]
    assert saved(tmp_path) == [1, 2]


def test_what_a_full_disk_does_not_take_is_not_said_to_be_saved(tmp_path, monkeypatch):
    trainer, checkpoints = small(tmp_path)
    monkeypatch.setattr(checkpoints, "save", lambda engine: False)
    with pytest.raises(Stopped, match="SIGTERM: nothing new is saved; the same command goes on") as caught:
        trainer.run()
    assert caught.value.code == 143


def test_handlers_of_before_come_back_after_a_run_that_ends_and_one_that_fails(tmp_path):
    before = [signal.getsignal(number) for number in CODES]
    for error in (False, True):
        trainer, _ = small(tmp_path / str(error), times=0)

        def during(engine, error=error):
            assert [signal.getsignal(number) for number in CODES] != before
            if error:
                raise ArithmeticError

        trainer.add_event_handler(Events.ITERATION_COMPLETED, during)
        with pytest.raises(ArithmeticError) if error else contextlib.nullcontext():
            trainer.run()
        assert [signal.getsignal(number) for number in CODES] == before


def test_a_finished_run_listens_to_nothing(tmp_path):
    small(tmp_path, times=0)[0].run()
    trainer, _ = small(tmp_path)
    before, during = signal.getsignal(signal.SIGTERM), []
    trainer.add_event_handler(TrainerEvents.NOTHING_LEFT, lambda: during.append(signal.getsignal(signal.SIGTERM)))
    trainer.run()
    assert during == [before]


# -- processes ---------------------------------------------------------------------------------------------------------


def in_child(folder, function):
    """Run it in a forked process, which is cheaper than a new one: exit code, and what was printed."""
    printed = folder / f"printed_{time.monotonic_ns()}"
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 99
        try:
            descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
            code = function()
        except SystemExit as left:
            code = left.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), printed.read_text()


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_second_signal_ends_the_process_at_once_and_the_older_checkpoint_stays(tmp_path, number):
    folder = tmp_path / "checkpoints"
    code, told = in_child(tmp_path, lambda: small(folder, number, times=2)[0].run())
    assert code == CODES[number]
    assert told.splitlines()[-1] == f"{number.name} again: leaving at once"
    assert saved(folder) == [1]


def test_a_second_signal_while_saving_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    folder, write = tmp_path / "checkpoints", _Hashing.write

    def ask_again(self, data):
        if self.file.tell() > 1000 and "000000002" in self.file.name:
            os.kill(os.getpid(), signal.SIGINT)
        return write(self, data)

    monkeypatch.setattr(_Hashing, "write", ask_again)
    code, told = in_child(tmp_path, lambda: small(folder)[0].run())
    assert (code, told.splitlines()[-1]) == (130, "SIGINT again: leaving at once")
    assert saved(folder) == [1]
    assert len(list(folder.glob(".*"))) == 1, "the half file, which the next start removes"
    monkeypatch.undo()
    small(folder, times=0)[0].run()
    assert saved(folder) == [1, 2]
    assert not list(folder.glob(".*"))


def test_a_process_forked_a_moment_ago_saves_nothing_and_ends(tmp_path):
    """A loader process has the trainer's handlers until it has its own, and a group's signal reaches it too."""
    codes = []

    def fork(engine):
        if engine.state.iteration == 1:
            codes.append(in_child(tmp_path, lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(60)))

    trainer, _ = small(tmp_path / "checkpoints", times=0, save_interval=0)
    trainer.add_event_handler(Events.GET_BATCH_STARTED, fork)
    trainer.run()
    assert codes == [(143, "")]
    assert saved(tmp_path / "checkpoints") == [2]


@pytest.mark.parametrize(
    ("signalled", "lost", "told", "iterations"),
    [
        (IterationEvents.BACKWARD_COMPLETED, "in the step", "SIGTERM: nothing new is saved; the same", [1]),
        (IterationEvents.BACKWARD_COMPLETED, "after it", "SIGTERM: saved at iteration 2; the same", [1, 2]),
        (TrainerEvents.ENDED, "in the step", "error: another rank has ended", [1]),
    ],
    ids=["signal, then lost", "signal, lost after the step", "lost, then signal"],
)
def test_a_rank_that_lost_another_says_one_thing_whenever_torchruns_signal_comes(
    tmp_path, monkeypatch, signalled, lost, told, iterations
):
    def lose(*_):
        raise RankLost("another rank has ended")

    def lose_at_the_end(self, engine, save=Checkpoints._iteration):
        save(self, engine)
        if engine.state.iteration == 2:
            monkeypatch.setattr(ranks, "gather_numbers", lose)

    def run():
        if lost == "after it":
            monkeypatch.setattr(Checkpoints, "_iteration", lose_at_the_end)
        trainer, _ = small(tmp_path / "checkpoints", times=0)
        trainer.add_event_handler(signalled, lambda engine: engine.state.iteration == 2 and terminate())
        if lost == "in the step":
            trainer.add_event_handler(
                IterationEvents.BACKWARD_COMPLETED, lambda engine: engine.state.iteration == 2 and lose()
            )
        trainer.run()

    code, printed = in_child(tmp_path, run)
    assert code == 143
    assert printed.splitlines()[-1].startswith(told)
    assert "Traceback" not in printed
    assert saved(tmp_path / "checkpoints") == iterations


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


# -- SLURM -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Make a fake ``scontrol`` that notes its arguments, the only program in PATH; then tell what it noted."""
    programs, notes = tmp_path / "bin", tmp_path / "notes"

    def make(code=0, **environment):
        write_program(programs / "scontrol", f'echo "$@" >> {notes}\necho "no such job" >&2\nexit {code}\n')
        for name, value in ({"SLURM_JOB_ID": "77", "PATH": str(programs)} | environment).items():
            monkeypatch.setenv(name, value)
        return lambda: notes.read_text().splitlines() if notes.is_file() else []

    return make


def write_program(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{lines}")
    path.chmod(0o755)


def leave(folder, number=signal.SIGUSR1):
    trainer, _ = small(folder, number)
    with pytest.raises(Stopped) as caught:
        trainer.run()
    assert saved(folder) == [1, 2]
    return caught.value


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, ["requeue 77"]),
        ({"SLURM_PROCID": "0"}, ["requeue 77"]),
        ({"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}, ["requeue 70_3"]),
        ({"SLURM_PROCID": "1"}, []),
    ],
)
def test_slurm_is_asked_once_per_job_to_put_it_back_and_the_exit_code_is_0(tmp_path, scontrol, environment, asked):
    noted = scontrol(**environment)
    stopped = leave(tmp_path / "checkpoints")
    assert stopped.code == 0
    assert str(stopped) == "SIGUSR1: saved at iteration 2, the job is put back into the queue; the same command goes on"
    assert noted() == asked


def test_a_job_that_slurm_does_not_take_back_says_so_by_line_and_exit_code(tmp_path, scontrol, capsys):
    noted = scontrol(code=1)
    assert leave(tmp_path / "checkpoints").code == 138
    assert noted() == ["requeue 77"]
    assert "scontrol requeue 77 failed (no such job): it is not put back" in capsys.readouterr().err


def test_without_scontrol_the_job_is_not_put_back_and_a_line_says_so(tmp_path, scontrol, capsys):
    scontrol(PATH=str(tmp_path))
    assert leave(tmp_path / "checkpoints").code == 138
    assert "scontrol was not found: job 77 is not put back" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_job_that_is_cancelled_is_not_put_back(tmp_path, scontrol, number):
    noted = scontrol()
    assert leave(tmp_path / "checkpoints", number).code == CODES[number]
    assert noted() == []


def test_usr1_outside_of_slurm_does_not_ask_for_scontrol(tmp_path, scontrol, monkeypatch):
    noted = scontrol()
    monkeypatch.delenv("SLURM_JOB_ID")
    assert leave(tmp_path / "checkpoints").code == 138
    assert noted() == []


# -- the whole command -------------------------------------------------------------------------------------------------

TINY = """
patch_size: [32, 32, 16]
num_samples: 3
channels: [4, 8]
num_embeddings: 16
codebook_init_steps: 1
max_epochs: 3
val_interval: 3
batch_size: 2
micro_batch_size: 2
adversarial_start: 3
discriminator_channels: 4
discriminator_layers: 1
progress: false
"""


@pytest.fixture(scope="module")
def command(phantom_folder, tmp_path_factory):
    """Words of a training of 9 iterations; the output folder comes last."""
    tiny = tmp_path_factory.mktemp("overlay") / "tiny.yaml"
    tiny.write_text(TINY)
    overlays = ["--overlay", str(ROOT / "configs/smoke.yaml"), "--overlay", str(tiny)]
    return ["train", "--data", str(phantom_folder), *overlays, "--output"]


@pytest.fixture(scope="module")
def weights(command, tmp_path_factory):
    """SHA-256 of the weights that a training ends with that nobody stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, told = in_child(folder, lambda: main([*command, str(folder / "run")]))
    assert code == 0, told
    return (folder / "run/model.pt.sha256").read_text()


def resume(command, folder, weights):
    code, told = in_child(folder, lambda: main([*command, str(folder / "run")]))
    assert code == 0, told
    assert "resumed at iteration 5 of 9" in told
    assert (folder / "run/model.pt.sha256").read_text() == weights


def test_the_command_ends_with_143_and_a_line_when_its_group_is_told_to_and_goes_on(tmp_path, command):
    """As a scheduler does it, while loader processes are at work."""
    words = [*command, str(tmp_path / "run"), "--set", "num_workers=2", "--set", "val_interval=1000", "--set"]
    words = [sys.executable, "-m", "ctpa_vqgan", *words, "max_epochs=1000"]  # so many that the signal is in time
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, start_new_session=True, cwd=ROOT, **pipes) as process:
        told = list(itertools.takewhile(lambda line: not line.startswith("epoch 1:"), process.stderr))
        os.killpg(process.pid, signal.SIGTERM)
        told += process.stderr.readlines()
        assert process.wait(60) == 143, told
    with pytest.raises(ProcessLookupError):  # no loader process is left
        os.killpg(process.pid, 0)
    assert not any("Traceback" in line for line in told)
    (iteration,) = [int(word) for word in told[-1].replace(";", "").split() if word.isdigit()]
    assert told[-1] == f"SIGTERM: saved at iteration {iteration}; the same command goes on\n"
    assert iteration >= 3
    epochs = iteration // 3 + 1
    code, told = in_child(tmp_path, lambda: main([*words[3:-1], f"max_epochs={epochs}"]))
    assert code == 0, told
    assert f"resumed at iteration {iteration} of {3 * epochs}" in told


def signal_to_the_group(monkeypatch, number, iteration=5):
    """Let the group get the signal in the middle of a step, in a child that is a group of its own."""
    step = VQGANTrainer._apply

    def asking(self, *arguments):
        if self.state.iteration == iteration:
            os.killpg(0, number)
        return step(self, *arguments)

    monkeypatch.setattr(VQGANTrainer, "_apply", asking)


def test_ctrl_c_at_a_terminal_reaches_loader_processes_too_and_saves_all_the_same(
    tmp_path, command, weights, monkeypatch
):
    signal_to_the_group(monkeypatch, signal.SIGINT)
    words = [*command, str(tmp_path / "run"), "--set", "num_workers=2"]
    code, told = in_child(tmp_path, lambda: os.setsid() or main(words))
    assert code == 130, told
    assert told.splitlines()[-2:] == [
        "SIGINT: finishing the step, then saving; once more to leave at once",
        "SIGINT: saved at iteration 5; the same command goes on",
    ]
    assert "Traceback" not in told
    monkeypatch.undo()
    resume(command, tmp_path, weights)


def test_monais_own_command_leaves_with_the_same_code(tmp_path, command, weights, monkeypatch):
    signal_to_the_group(monkeypatch, signal.SIGTERM)
    bundle, files = ROOT / "bundles/ctpa_vqgan", [command[command.index("--overlay") + 1], command[-2]]
    words = ["run", "training", "--config_file", str([str(bundle / "configs/train.yaml"), *files])]
    words += ["--bundle_root", str(bundle), "--dataset_dir", command[2], "--output_dir", str(tmp_path / "run")]

    def run():
        os.setsid()
        sys.argv[1:] = words
        runpy.run_module("monai.bundle", run_name="__main__")

    code, told = in_child(tmp_path, run)
    assert code == 143, told
    assert told.splitlines()[-1] == "SIGTERM: saved at iteration 5; the same command goes on"
    assert "Traceback" not in told
    monkeypatch.undo()
    resume(command, tmp_path, weights)
