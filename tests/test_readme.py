"""What the README shows works."""

import re
import shlex
from pathlib import Path

import pytest

from ctpa_vqgan.__main__ import _parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EVALUATION = (ROOT / "docs/evaluation.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_python_example_runs():
    (example,) = blocks("python")
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["reconstruction"].shape == names["volume"].shape
    assert names["codes"].shape == (1, 18, 15, 12)


def test_the_python_example_of_the_evaluation_prints_what_it_says(capsys):
    (example,) = blocks("python", EVALUATION)
    exec(compile(example, "docs/evaluation.md", "exec"), {})
    promised = re.findall(r"print\(.*\)  # ([\d.]+|nan)", example)
    printed = capsys.readouterr().out.split()
    assert [round(float(number), 3) for number in printed] == pytest.approx(list(map(float, promised)), nan_ok=True)


def commands() -> list[str]:
    lines = "".join(blocks("sh") + blocks("sh", EVALUATION)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("python -m ctpa_vqgan")]


@pytest.mark.parametrize("command", commands())
def test_the_commands_are_understood(command):
    options = _parser().parse_args(shlex.split(command, comments=True)[3:])
    assert callable(options.function)


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "".join(blocks("sh")), flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_links_lead_somewhere():
    documents = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    for document in documents:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
