"""The batch scripts of docs/slurm start what they say, and put a job back when that is right, and once.

There is no cluster: ``srun``, ``scancel``, ``scontrol``, ``torchrun`` and ``python`` are small programs in PATH that
note what they are told.
"""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ctpa_vqgan.__main__ import _parser

ROOT = Path(__file__).parents[1]
FOLDER, PAGE = ROOT / "docs/slurm", (ROOT / "docs/slurm.md").read_text()
NAMES = ["encode_array.sh", "train_nodes.sh", "train_one_gpu.sh", "train_one_node.sh"]
TRAININGS, BACK_BY_THEMSELVES = NAMES[1:], [name for name in NAMES if name != "train_one_gpu.sh"]
#: what the manual of sbatch calls them; of its many, those that an example may use
OPTIONS = {
    "array": r"1-\d+(%\d+)?",
    "cpus-per-task": r"\d+",
    "gres": r"gpu:\d+",
    "job-name": r"\w+",
    "mem": r"\d+G",
    "nodes": r"\d+",
    "ntasks-per-node": r"1",
    "open-mode": r"append",
    "output": r"slurm-(%j|%A_%a)\.log",
    "requeue": r"",
    "signal": r"(B:)?USR1@\d+",
    "time": r"\d\d:\d\d:\d\d",
}
JOB = {"SLURM_JOB_ID": "70077", "SLURM_CPUS_PER_TASK": "6", "SLURM_GPUS_ON_NODE": "4"}
NODES = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[07-08]"}
ARRAY = {"SLURM_ARRAY_JOB_ID": "70070", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
ARRAY |= {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "16"}

NOTE = 'printf "%s\\0" "${0##*/}" "$@" >> notes; echo >> notes\n'
# the real one answers SIGTERM by killing its tasks, hence the note
SRUN = """
trap 'echo "srun was told to end" >> notes' TERM
while [[ $1 == --* ]]; do shift; done
"$@" & echo $! > step
wait $!
"""
SCANCEL = 'kill -"${1#--signal=}" "$(cat step)"\n'
SCONTROL = """
[[ $1 != requeue ]] || exit "${REQUEUE_CODE:-0}"
printf "%s\\n" gpu07 gpu08
"""
# a run of any command: it ends by itself, or works until it is told to end
RUN = """
trap 'echo "the run got SIGTERM" >> notes; eval "$WHEN_TOLD"' TERM
eval "${RUN:-exit 0}"
touch started
while :; do sleep 0.02; done
"""
SAVES = 'mkdir -p "a folder/checkpoints"; touch "a folder/checkpoints/checkpoint_000000007.pt"; '


class Cluster:
    """A folder in which a batch script runs as SLURM would start it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL, "torchrun": RUN, "python": RUN}
        (folder / "bin").mkdir()
        for name, lines in programs.items():
            (folder / "bin" / name).write_text(f"#!{shutil.which('bash')}\n{NOTE}{lines}")
            (folder / "bin" / name).chmod(0o755)

    def start(self, name: str, *words: str, **environment: str) -> subprocess.Popen:
        slurm = JOB | (NODES if name == "train_nodes.sh" else ARRAY if name == "encode_array.sh" else {})
        environment = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"} | slurm | environment
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([FOLDER / name, *words], env=environment, cwd=self.folder, **pipes)

    def run(self, name: str, *words: str, **environment: str) -> tuple[int, str]:
        """Exit code and standard error."""
        process = self.start(name, *words, **environment)
        return (process.communicate(timeout=60)[1], process.returncode)[::-1]

    def run_to_the_limit(self, name: str, signals: int = 1, **environment: str) -> tuple[int, str]:
        """The same for a run that is still at work when SLURM sends its signal."""
        process = self.start(name, *words_for(name), RUN=":", **environment)
        deadline = time.monotonic() + 10
        while not (self.folder / "started").exists():
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()
            time.sleep(0.01)
        for _ in range(signals):
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.05)
        return (process.communicate(timeout=60)[1], process.returncode)[::-1]

    def notes(self) -> list[list[str]]:
        """Every call as its words."""
        return [line.rstrip("\0").split("\0") for line in (self.folder / "notes").read_text().splitlines()]

    def words_of(self, program: str) -> list[str]:
        (words,) = [words[1:] for words in self.notes() if words[0] == program]
        return words

    def requeued(self) -> list[str]:
        return [words[2] for words in self.notes() if words[:2] == ["scontrol", "requeue"]]


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def words_for(name: str) -> list[str]:
    return [*(["encode"] if name == "encode_array.sh" else []), "some data", "a folder"]


def options_of(name: str) -> dict[str, str]:
    """What a script asks of SLURM, which reads up to the first line that is neither empty nor a comment."""
    head = itertools.takewhile(lambda line: not line or line[0] == "#", (FOLDER / name).read_text().splitlines())
    asked = [line.removeprefix("#SBATCH --").partition("=") for line in head if line.startswith("#SBATCH")]
    assert len(dict.fromkeys(option for option, _, _ in asked)) == len(asked), "no option twice"
    return {option: value for option, _, value in asked}


def parsed(words: list[str]):
    """What the package makes of ``-m ctpa_vqgan ...``."""
    assert words[:2] == ["-m", "ctpa_vqgan"]
    return _parser().parse_args(words[2:])


# -- as text -----------------------------------------------------------------------------------------------------------


def test_the_page_has_every_script_in_its_table():
    assert sorted(path.name for path in FOLDER.iterdir()) == NAMES
    assert sorted(re.findall(r"^\| \[(\w+\.sh)\]\(slurm/\1\) \|", PAGE, flags=re.MULTILINE)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_bash_and_may_be_run(name):
    assert os.access(FOLDER / name, os.X_OK)
    assert subprocess.run(["bash", "-n", FOLDER / name]).returncode == 0


def test_shellcheck_has_nothing_to_say():
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run([program, *FOLDER.glob("*.sh")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_script_asks_slurm_for_nothing_that_it_does_not_know(name):
    options = options_of(name)
    assert not options.keys() - OPTIONS.keys()
    for option, value in options.items():
        assert re.fullmatch(OPTIONS[option], value), f"--{option}={value}"


@pytest.mark.parametrize("name", NAMES)
def test_a_job_is_told_before_its_end_may_be_put_back_and_keeps_its_log(name):
    options = options_of(name)
    assert {"requeue", "open-mode", "signal", "time"} <= options.keys()
    assert options["signal"].startswith("B:") == (name in BACK_BY_THEMSELVES), "who listens is who is told"


@pytest.mark.parametrize("name", ["train_one_node.sh", "train_nodes.sh"])
def test_torchrun_gives_its_ranks_less_time_to_save_than_slurm_gives_the_job(name):
    (patience,) = re.findall(r"^export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)$", (FOLDER / name).read_text(), re.M)
    assert 30 < int(patience) < int(options_of(name)["signal"].partition("@")[2])


def test_what_puts_a_job_back_is_the_same_in_every_script():
    """A batch script cannot read a file beside it: SLURM runs a copy of it elsewhere."""
    turns = {re.search(r"^# ---- one turn.*^# -+\n", (FOLDER / name).read_text(), re.M | re.S)[0] for name in NAMES[:2]}
    turns.add(re.search(r"^# ---- one turn.*^# -+\n", (FOLDER / NAMES[3]).read_text(), re.M | re.S)[0])
    assert len(turns) == 1


# -- what is started ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_word_that_is_missing_gives_the_usage_and_code_2(cluster, name):
    code, told = cluster.run(name, *words_for(name)[:-1])
    assert code == 2
    assert re.match(rf"usage: sbatch (--nodes=N )?docs/slurm/{name} (COMMAND )?DATA OUTPUT", told)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_gets_its_words_as_they_were_given(cluster, name):
    assert cluster.run(name, "some data", "a folder", "--set", "init_path=my runs/model.pt") == (0, "")
    words = cluster.words_of("python" if name == "train_one_gpu.sh" else "torchrun")
    options = parsed(words[words.index("-m") :])
    assert (options.name, options.data, options.output) == ("train", "some data", "a folder")
    assert options.set == ["init_path=my runs/model.pt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_gets_the_cores_of_its_job(cluster, name):
    cluster.run(name, *words_for(name))
    assert cluster.words_of("srun")[0] == "--cpus-per-task=6"


def test_on_one_node_torchrun_starts_a_process_for_each_gpu(cluster):
    cluster.run("train_one_node.sh", "data", "output")
    words = cluster.words_of("torchrun")
    assert words[: words.index("-m")] == ["--standalone", "--nproc_per_node=4"]


def test_on_several_nodes_they_meet_at_the_first_one(cluster):
    cluster.run("train_nodes.sh", "data", "output")
    assert ["scontrol", "show", "hostnames", "gpu[07-08]"] in cluster.notes()
    words = cluster.words_of("torchrun")
    expected = ["--nnodes=2", "--nproc_per_node=4", "--rdzv-backend=c10d", "--rdzv-id=70077"]
    assert words[: words.index("-m")] == [*expected, "--rdzv-endpoint=gpu07:20077"]


@pytest.mark.parametrize("name", ["train_one_node.sh", "train_nodes.sh"])
def test_a_job_without_gpus_is_told_how_to_ask_for_them(cluster, name):
    process = cluster.start(name, "data", "output", SLURM_GPUS_ON_NODE="")
    assert "the job has no GPU: ask for some with --gres=gpu:N" in process.communicate()[1]
    assert process.returncode


@pytest.mark.parametrize("command", ["encode", "decode", "inference", "evaluate", "prepare"])
def test_an_array_task_does_its_part_of_the_cases(cluster, command):
    assert cluster.run("encode_array.sh", command, "some data", "a folder") == (0, "")
    options = parsed(cluster.words_of("python"))
    data = options.input if command == "prepare" else [options.data]
    assert (options.name, data, options.output, options.shard) == (command, ["some data"], "a folder", "3/16")


def test_an_array_task_hands_on_further_words(cluster):
    cluster.run("encode_array.sh", "encode", "data", "codes", "--checkpoint", "my runs/model.pt")
    assert cluster.words_of("python")[-2:] == ["--checkpoint", "my runs/model.pt"]


def test_an_array_shares_only_what_can_be_shared(cluster):
    code, told = cluster.run("encode_array.sh", "train", "data", "output")
    assert (code, told[:6]) == (2, "usage:")


@pytest.mark.parametrize("tasks", [(0, 15, 16), (2, 17, 16), (1, 31, 16), (7, 7, 1)], ids=str)
def test_an_array_that_would_leave_cases_out_is_refused(cluster, tasks):
    names = ["SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT"]
    code, told = cluster.run("encode_array.sh", "encode", "data", "output", **dict(zip(names, map(str, tasks))))
    assert (code, told[:22]) == (2, "--array: expected 1-N,")
    assert not (cluster.folder / "notes").exists()


def test_some_parts_are_done_again_when_their_number_is_said(cluster):
    some = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MAX": "7", "SHARDS": "16"}
    assert cluster.run("encode_array.sh", "encode", "data", "output", **some) == (0, "")
    assert "3/16" in cluster.words_of("python")


# -- the time limit ----------------------------------------------------------------------------------------------------

THIS_JOB = {"encode_array.sh": "70070_3", "train_nodes.sh": "70077", "train_one_node.sh": "70077"}


@pytest.mark.parametrize("name", BACK_BY_THEMSELVES)
def test_at_the_limit_the_run_is_told_to_end_and_the_job_is_put_back_once(cluster, name):
    # torchrun ends with 1 whenever it was told to end
    code, told = cluster.run_to_the_limit(name, WHEN_TOLD=f"{SAVES}sleep 0.1; exit 1")
    assert (code, told) == (0, f"job {THIS_JOB[name]} is put back into the queue\n")
    assert cluster.requeued() == [THIS_JOB[name]]
    begun = cluster.notes().index(["scancel", "--signal=TERM", THIS_JOB[name]])
    assert cluster.notes()[begun + 1 :] == [["the run got SIGTERM"], ["scontrol", "requeue", THIS_JOB[name]]]


def test_a_second_signal_changes_nothing(cluster):
    code, _ = cluster.run_to_the_limit("train_one_node.sh", signals=3, WHEN_TOLD=f"{SAVES}sleep 0.3; exit 1")
    assert code == 0
    assert cluster.requeued() == ["70077"]
    assert [words for words in cluster.notes() if words[0] == "the run got SIGTERM"] == [["the run got SIGTERM"]]


@pytest.mark.parametrize("name", BACK_BY_THEMSELVES)
@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_run_that_ends_by_itself_is_not_put_back(cluster, name, code):
    assert cluster.run(name, *words_for(name), RUN=f"{SAVES}exit {code}") == (code, "")
    assert cluster.requeued() == []


def test_a_run_that_is_done_when_the_signal_comes_is_not_put_back(cluster):
    assert cluster.run_to_the_limit("train_one_node.sh", WHEN_TOLD=f"{SAVES}exit 0") == (0, "")
    assert cluster.requeued() == []


# what a run leaves that got nothing done: as evaluate's and prepare's do
HALF = 'work="a folder/.work/$$"; mkdir -p "$work"; touch "a folder/.half" "$work/0.nii" "a folder/x.lock"; exit 1'


@pytest.mark.parametrize("name", BACK_BY_THEMSELVES)
def test_a_turn_that_saved_nothing_is_the_last_one(cluster, name):
    """Else a run that never gets as far as a checkpoint would come back for ever."""
    for folder in ("checkpoints", "tensorboard"):
        (cluster.folder / "a folder" / folder).mkdir(parents=True)
    (cluster.folder / "a folder/checkpoints/checkpoint_000000003.pt").touch()
    code, told = cluster.run_to_the_limit(name, WHEN_TOLD=HALF)
    assert (code, told.partition(":")[0]) == (1, "nothing new was saved in this turn")
    assert cluster.requeued() == []


def test_a_job_that_slurm_does_not_take_back_says_so_and_keeps_the_code_of_its_run(cluster):
    code, told = cluster.run_to_the_limit("train_nodes.sh", WHEN_TOLD=f"{SAVES}exit 143", REQUEUE_CODE="1")
    assert (code, told) == (143, "scontrol refused: job 70077 is not put back; the same command goes on\n")


def test_a_run_on_one_gpu_hears_the_signal_itself_and_its_code_is_passed_on(cluster):
    """What it does then is told by the tests of ``Preemption``."""
    assert cluster.run("train_one_gpu.sh", "data", "output", RUN="exit 138") == (138, "")
    assert cluster.requeued() == []


# -- the page ----------------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.search(r"ctpa_vqgan|sbatch", line)]


def test_the_commands_of_the_page_are_understood():
    found = {"-m ctpa_vqgan": 0, "monai.bundle": 0, "sbatch": 0}
    for command in commands():
        words = shlex.split(command.split(" &")[0], comments=True)
        if "sbatch" in words:
            found["sbatch"] += 1
            script = next(word for word in words if word.endswith(".sh"))
            name, given = Path(script).name, words[words.index(script) + 1 :]
            assert (ROOT / script).is_file()
            assert len(given) >= len(words_for(name))
        elif "monai.bundle" in words:
            found["monai.bundle"] += 1
            assert words[words.index("monai.bundle") + 1 :][:3] == ["run", "training", "--config_file"]
        else:
            found["-m ctpa_vqgan"] += 1
            assert callable(parsed(words[words.index("-m") :]).function)
    assert all(found.values()), found
