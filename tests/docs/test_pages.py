"""The pages hold together: every block has a language and means something, every link leads somewhere."""

import itertools
import re
from urllib.parse import unquote

import pytest
import yaml
from commands import CONFIGS
from pages import BUNDLE, ROOT, all_blocks, anchors, blocks, links, pages, prose

from ctpa_vqgan.cli.knobs import checked, known_knobs

LANGUAGES = {
    "sh": "commands",
    "python": "runs as it is",
    "py": "a sketch",
    "yaml": "an overlay of knobs",
    "text": "output, trees",
}


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language(page):
    odd = [f"{block}: {block.language!r}" for block in blocks(page) if block.language not in LANGUAGES]
    assert not odd, f"{odd}: expected one of {LANGUAGES}"


@pytest.mark.parametrize("block", all_blocks("python", "py"), ids=str)
def test_python_compiles(block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_yaml_is_an_overlay_of_knobs_that_there_are(block):
    known = known_knobs(sorted(CONFIGS.glob("*.yaml")))
    content = yaml.safe_load(block.text)
    assert content, f"{block}: no knob in there"
    checked(content, known, str(block))


@pytest.mark.parametrize("page", pages())
def test_the_links_lead_somewhere(page):
    wrong = []
    for number, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        if not path.exists():
            wrong.append(f"{page}:{number}: {target}: no such file")
        elif ROOT not in (path, *path.parents):
            wrong.append(f"{page}:{number}: {target}: outside of the repository")
        elif anchor and anchor not in anchors(path.relative_to(ROOT).as_posix()):
            wrong.append(
                f"{page}:{number}: {target}: no such heading, but {sorted(anchors(path.relative_to(ROOT).as_posix()))}"
            )
    assert not wrong, "\n".join(wrong)


def test_the_bundles_pages_are_found():
    assert f"{BUNDLE}/docs/README.md" in pages()


# -- the site ----------------------------------------------------------------------------------------------------------

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def _in_nav(entries):
    for entry in entries:
        entry = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from _in_nav(entry) if isinstance(entry, list) else [entry]


def test_every_page_is_in_the_navigation_once_and_every_entry_is_a_page():
    """What ``make docs`` would say too, without mkdocs."""
    text = (ROOT / "docs/site_hooks.py").read_text()
    elsewhere = dict(re.findall(r'^    "(.+\.md)": "(.+\.md)",$', text, flags=re.MULTILINE))
    assert elsewhere["README.md"] == "index.md"
    of_docs = [page for page in pages() if page.startswith("docs/") and not page.startswith("docs/results/")]
    found = [elsewhere.get(page, page.removeprefix("docs/")) for page in {*of_docs, *elsewhere}]
    assert sorted(_in_nav(SITE["nav"])) == sorted(found)


@pytest.mark.parametrize("page", pages())
def test_a_list_is_seen_as_one_by_the_site_too(page):
    """GitHub begins a list in the middle of a paragraph; mkdocs wants an empty line before it."""
    lines = prose(page).splitlines()
    item = re.compile(r" *([*-]|\d+\.) ")
    wrong = [
        number + 2
        for number, (before, line) in enumerate(itertools.pairwise(lines))
        if item.match(line) and before.strip() and not before.startswith(("#", " ", "<!--")) and not item.match(before)
    ]
    assert not wrong, f"{page}: put an empty line before the lists of lines {wrong}"
