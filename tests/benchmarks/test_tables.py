"""The measured tables of the pages come from docs/results and nowhere else."""

import pytest
import tables


@pytest.mark.parametrize(("path", "entries"), tables.PAGES.items(), ids=[path.name for path in tables.PAGES])
def test_a_page_is_what_the_numbers_make_it(path, entries):
    page = path.read_text()
    assert page == tables.refreshed(page, tables=entries), "run python benchmarks/tables.py"


def test_a_file_of_numbers_becomes_its_table_and_leaves_the_rest(smoke):
    page = tables.PAGE.read_text()
    outside = tables.REGION.sub("", page)
    for name in ("quantizer", "training_step", "reconstruction", "startup"):
        changed = tables.refreshed(page, smoke(name).parent)
        assert tables.REGION.sub("", changed) == outside
        assert tables.region(f"{name}-cpu", smoke(name).parent) in changed
        assert "| ---" in tables.region(f"{name}-cpu", smoke(name).parent)
        assert "`make bench-gpu` writes it" in tables.region(f"{name}-cuda", smoke(name).parent)


def test_a_table_without_numbers_says_so(tmp_path):
    assert "Not measured" in tables.region("quantizer-cpu", tmp_path)


def test_regions_and_tables_must_match():
    page = tables.PAGE.read_text()
    with pytest.raises(ValueError, match="expected each of"):
        tables.refreshed(page.replace("table: quantizer-cpu", "table: unknown"))
