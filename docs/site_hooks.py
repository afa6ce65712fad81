"""What mkdocs does beyond its own: pages outside of docs/ join the site, and links stay as they are in the repository.

In the repository a link is a path from the folder of its page. In the site ``README.md`` is the home page, and a file
that is no page (a config, a script) lies in ``source/`` as it is; a folder has no page, its links become plain text.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
#: pages of the site by where they lie in the repository
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "bundles/ctpa_vqgan/docs/README.md": "model-card.md",
}
LINK = re.compile(r"(!?)\[((?:[^]\[]|\[[^]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", flags=re.DOTALL | re.MULTILINE)


def on_config(config):
    """Headings get the names that GitHub gives them, so ``page.md#heading`` leads to the same place."""
    config["mdx_configs"].setdefault("toc", {}).update(slugify=slugify(case="lower"), permalink=True)
    return config


def on_files(files, config):
    """Add the pages that lie elsewhere, and every file that a page links to."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    wanted = set()
    for file in files.documentation_pages():
        source = _source(file)
        text = CODE.sub("", (ROOT / source).read_text(encoding="utf-8"))
        wanted |= {_target(source, link[2]) for link in LINK.findall(text) if not _is_elsewhere(link[2])}
    for path in sorted(wanted):
        if (ROOT / path).is_file() and _in_site(path).startswith("source/"):
            files.append(File.generated(config, _in_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links of the repository into links of the site, except in code."""
    source, kept, last = _source(page.file), [], 0
    for code in CODE.finditer(markdown):
        kept += [LINK.sub(lambda found: _link(found, source, page), markdown[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*kept, LINK.sub(lambda found: _link(found, source, page), markdown[last:])])


def _link(found, source, page):
    picture, text, target = found.groups()
    if _is_elsewhere(target) or target.startswith("#"):
        return found[0]
    path = _target(source, target)
    if (ROOT / path).is_dir():
        return text
    anchor = target.partition("#")[2]
    here = posixpath.dirname(page.file.src_uri)
    way = posixpath.relpath(_in_site(path), here or ".") + (f"#{anchor}" if anchor else "")
    return f"{picture}[{text}]({way})"


def _is_elsewhere(target):
    return re.match(r"[a-z]+:", target) is not None


def _target(source, target):
    """Path from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target.partition("#")[0]))


def _source(file):
    return os.path.relpath(file.abs_src_path, ROOT).replace(os.sep, "/")


def _in_site(path):
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    is_of_docs = path.startswith("docs/") and not path.endswith(".py")
    return path.removeprefix("docs/") if is_of_docs else f"source/{path}"
