"""Write the table of rules into docs/data.md: python docs/make_rules_table.py."""

from pathlib import Path

from ctpa_vqgan.data.checks.rules import RULES

PAGE = Path(__file__).with_name("data.md")
BEGIN, END = "<!-- rules: made by docs/make_rules_table.py -->\n", "<!-- end of rules -->\n"


def table() -> str:
    """One line a rule."""
    rows = ["| rule | expected | what to do if not |", "|---|---|---|"]
    for name, rule in RULES.items():
        kind = " (warning)" if rule.warns else ""
        rows.append(f"| `{name}`{kind} | {rule.expects} | {rule.way_out} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1])
