"""The tutorials run as they stand, and show what they print."""

from pathlib import Path

import pytest
import torch
from tutorial_pages import TUTORIALS, blocks, differences, run

PAGES = sorted(page.name for page in TUTORIALS.glob("*.md") if blocks(page))

pytestmark = pytest.mark.usefixtures("python_as_it_was")


@pytest.fixture
def torch_as_it_was():
    """A workflow seeds PyTorch and chooses kernels, as befits a process of its own."""
    state, benchmark = torch.get_rng_state(), torch.backends.cudnn.benchmark
    deterministic = torch.backends.cudnn.deterministic
    yield
    torch.set_rng_state(state)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.filterwarnings("ignore")
def test_a_tutorial_runs_from_top_to_bottom_and_prints_what_it_shows(name, torch_as_it_was, monkeypatch, tmp_path):
    monkeypatch.chdir(TUTORIALS.parents[1])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = {}
    for block, printed in run(TUTORIALS / name, {"__name__": "tutorial"}):
        assert block.output is not None or not printed, f"line {block.line} prints what the page does not show"
        if block.output is not None and (found := differences(block.output, printed)):
            told[block.line] = found
    assert not told, f"docs/tutorials/{name}: {told}"


def test_pages_with_numbers_are_among_those_that_run():
    assert {"monai_bundle.md", "monai_workflows.md", "segmentation.md"} <= set(PAGES)


def test_every_tutorial_is_in_the_index():
    index = (TUTORIALS / "README.md").read_text()
    pages = {path.name for path in TUTORIALS.iterdir() if path.suffix in (".md", ".ipynb")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def test_the_output_of_a_block_is_the_text_that_follows_before_other_code(tmp_path):
    page = Path(tmp_path / "page.md")
    page.write_text(
        "```python\nx = 1\n```\n\n```python\nprint(x)\n```\nshows\n```text\n1\n```\n```py\nno python\n```\n"
    )
    assert [(block.line, block.output) for block in blocks(page)] == [(2, None), (6, "1\n")]
    assert [printed for _, printed in run(page, {})] == ["", "1\n"]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("PSNR 26.1 dB", "a line before\nPSNR 26.2 dB", True),
        ("PSNR 26.1 dB", "PSNR 30.1 dB", False),
        ("lung 0.01", "lung 0.02", True),
        ("lung 0.01", "lung 0.03", False),
        ("12 codes", "13 codes", False),
        ("same: True", "same: False", False),
        ("two\nlines", "lines", False),
    ],
)
def test_shown_numbers_are_those_that_come_out_up_to_rounding(shown, printed, same):
    assert (not differences(shown, printed)) == same
