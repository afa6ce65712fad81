"""The commands of the pages that take seconds, and their Python, in a sandbox: commands with a few small knobs more."""

import re

import pytest
from blocks_to_run import quick
from pages import TUTORIALS, all_blocks, blocks

pytestmark = [
    pytest.mark.usefixtures("python_as_it_was"),
    pytest.mark.filterwarnings("ignore:parsing config_file"),  # MONAI: a config may run code
]

#: names that the text around a block speaks of
GIVEN = {"docs/code-format.md": {"path": "runs/codes/phantom_00.npz"}}
# tests/tutorials runs the others
PYTHON_PAGES = sorted({block.page for block in all_blocks("python") if not block.page.startswith(TUTORIALS)})


@pytest.mark.parametrize("run", quick(), ids=str)
def test_the_commands_of_a_block_run_one_after_another(run, sandbox):
    sandbox.enter(run.block, run.lines)
    for line in run.lines:
        sandbox.run(line)
    sandbox.check_outputs(run.lines)


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs_and_prints_what_it_says(page, sandbox, monkeypatch, capsys):
    """``print(...)  # 3.0``: the number is what comes, rounded as it stands there."""
    found = [block for block in blocks(page) if block.language == "python"]
    sandbox.enter(found[0])
    monkeypatch.chdir(sandbox.folder)
    names: dict = {"__name__": page, **GIVEN.get(page, {})}
    for block in found:
        exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
        promised = re.findall(r"^print\(.*\)  # (.*)", block.text, flags=re.MULTILINE)
        printed = capsys.readouterr().out.splitlines()
        for promise, line in zip(promised, printed, strict=bool(promised)):
            number = re.match(r"-?\d+(?:\.(\d+))?(?![\w.])|nan", promise)
            if number:
                digits = len(number[1] or "")
                assert round(float(line), digits) == pytest.approx(float(number[0]), nan_ok=True), f"{block}: {line}"
