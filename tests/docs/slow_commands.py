"""``make docs-check``: the commands of the pages that take minutes or several processes, as blocks of shell."""

import re

import pytest
from blocks_to_run import slow, unrun


@pytest.mark.parametrize("run", slow(), ids=str)
def test_the_block_runs(run, sandbox):
    sandbox.enter(run.block, run.lines)
    stop = 'code=$?; if [ $code -ne 0 ]; then echo "$code from the line above"; exit $code; fi'
    told = sandbox.shell("".join(f"echo '$' {number}\n{line}\n{stop}\n" for number, line in enumerate(run.lines, 1)))
    for code in re.findall(r"echo \$\? +# (\d+)", run.block.text):
        assert re.search(rf"^{code}$", told, flags=re.MULTILINE), f"{run.block}: expected the code {code}:\n{told}"
    sandbox.check_outputs(run.lines)


@pytest.mark.parametrize("command", unrun())
def test_is_not_run_here(command):
    pytest.skip(unrun()[command])
