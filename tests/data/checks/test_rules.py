"""Every rule says what it expects and what to do, here and in the documentation."""

import importlib.util
import pickle
from pathlib import Path

import pytest

from ctpa_vqgan.data.checks.rules import RULES, refuse

DOCS = Path(__file__).parents[3] / "docs"


def test_the_documentation_has_every_rule_as_it_is():
    spec = importlib.util.spec_from_file_location("make_rules_table", DOCS / "make_rules_table.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.table() in (DOCS / "data.md").read_text(), "run: python docs/make_rules_table.py"


@pytest.mark.parametrize("rule", RULES)
def test_a_refusal_is_one_line_with_file_rule_and_way_out(rule):
    message = str(refuse(rule, "a/ct.nii", "something"))
    assert message.startswith(f"a/ct.nii: [{rule}] expected ")
    assert "found something; " in message
    assert "\n" not in message


def test_a_refusal_comes_whole_out_of_another_process():
    error = pickle.loads(pickle.dumps(refuse("size", "ct.nii", "little")))
    assert (error.path, error.rule, error.found) == ("ct.nii", "size", "little")
    assert str(error) == str(refuse("size", "ct.nii", "little"))
