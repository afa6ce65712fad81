"""Every command of the pages is understood by what would read it, and somebody runs it."""

import commands
import pytest
from commands import NotUnderstoodError
from pages import BUNDLE, ROOT, Block, all_blocks, pages, read

from ctpa_vqgan.errors import UserError

BLOCKS = all_blocks("sh")
#: every command by where it stands: block, line, words
FOUND = [
    (block, number, words)
    for block in BLOCKS
    for number, line in commands.lines(block)
    for words in commands.simple_commands(line)
]


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}))
def test_the_commands_of_a_page_are_understood(page, capsys):
    wrong = []
    for block, number, words in FOUND:
        if block.page != page:
            continue
        try:
            commands.understood(words, ROOT / BUNDLE if commands.is_typed_in_bundle(block) else ROOT)
            commands.kind(words)
        except (NotUnderstoodError, UserError) as error:
            wrong.append(f"{page}:{number}: {error} {capsys.readouterr().err}".rstrip())
    assert not wrong, "\n".join(wrong)


def test_every_pattern_of_the_table_is_of_use():
    used = {commands.kind(words) for _, _, words in FOUND if not _is_refused(words)}
    unused = [pattern for who in ("never", "docs-check", "test") for pattern in commands.TABLE[who]]
    unused = [pattern for pattern in unused if pattern not in {pattern for _, pattern in used}]
    assert not unused, f"tests/docs/commands.yaml: no command fits {unused}; leave it out"


def _is_refused(words):
    try:
        commands.kind(words)
    except NotUnderstoodError:
        return True
    return False


@pytest.mark.parametrize("page", pages())
def test_no_command_hides_outside_of_the_fences(page):
    """A block that is only indented has no language: nobody would parse it."""
    starts = ("    python ", "    make ", "    torchrun ", "    sbatch ", "    pip ")
    fenced = {
        number
        for block in all_blocks()
        if block.page == page
        for number in range(block.line, block.line + block.text.count("\n"))
    }
    lines = enumerate(read(page).splitlines(), start=1)
    hidden = [number for number, line in lines if line.startswith(starts) and number not in fenced]
    assert not hidden, f"{page}: put ```sh around the commands of lines {hidden}"


# -- the checks themselves ---------------------------------------------------------------------------------------------

WRONG = {
    "python -m ctpa_vqgan trian --data DATA": "does not take this",
    "python -m ctpa_vqgan train --data DATA --outptu runs/x": "does not take this",
    "python -m ctpa_vqgan train --data DATA --set max_epoch=3": "no knob max_epoch",
    "python -m ctpa_vqgan train --data DATA --overlay configs/none.yaml": "no such config file",
    "python -m ctpa_vqgan train --data YOUR_FOLDER": "YOUR_FOLDER: expected a placeholder",
    "python -m monai.bundle rum training": "monai.bundle has no rum",
    "python -m monai.bundle run trainin --config_file bundles/ctpa_vqgan/configs/train.yaml": "none of the ids",
    "python -m monai.bundle run training --config_file configs/train.yaml": "no such config",
    "python -m monai.bundle run training --config_file bundles/ctpa_vqgan/configs/train.yaml --dataset DATA": "no knob",
    "torchrun --nproc_per_gpu=2 -m ctpa_vqgan train --data DATA": "torchrun does not take this",
    "torchrun --nproc_per_node=2 -m ctpa_vqgan trian": "does not take this",
    "python benchmarks/no_such_script.py": "no such script",
    "python benchmarks/quantizer.py --devices cpu": "has no --devices",
    "make dmeo": "no target dmeo",
    "make demo DATAS=DATA": "no DATAS",
    "pip install 'ctpa_vqgan[codec]'": "no extra",
    "pip install einopps": "neither",
    "sbatch docs/slurm/none.sh DATA runs/first": "no such script",
    "rm -rf runs": "no program that the pages may use",
    "cd no_such_folder": "no such folder",
}


@pytest.mark.parametrize("command", WRONG)
def test_what_could_not_be_run_is_told(command):
    (words,) = commands.simple_commands(command)
    with pytest.raises((NotUnderstoodError, UserError), match=WRONG[command]):
        commands.understood(words)


def test_a_block_is_taken_apart_as_a_shell_does_it():
    text = "a 'b\n c' \\\n  d  # e\n# f\ng & sleep 1; echo $? > h; X=1 i\n"
    found = list(commands.lines(Block("page", 10, "sh", text)))
    assert [number for number, _ in found] == [10, 14]
    taken = [commands.simple_commands(line) for _, line in found]
    assert taken == [[["a", "b\n c", "d"]], [["g"], ["sleep", "1"], ["echo", "$?"], ["X=1", "i"]]]
    assert commands.without_environment(["X=1", "i"]) == ["i"]


def test_a_command_that_nobody_runs_fails():
    with pytest.raises(NotUnderstoodError, match="no pattern"):
        commands.kind(["fetch", "everything"])
