"""The page as a browser gets it: safe, whole, readable; its content is tested where it is told."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from realistic import SETTINGS, evaluation

from ctpa_vqgan.report import write_metrics, write_report
from ctpa_vqgan.report.embedded import AS_IT_IS, GOAL, embed
from ctpa_vqgan.report.html import write_html_report
from ctpa_vqgan.report.style import DARK, LIGHT, STYLE

VOID = {"meta", "img", "br", "link"}
ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture(path, size=(300, 200), noise=0):
    """A PNG: a ramp with some noise, as CT has."""
    ramp = np.linspace(0, 255 - noise, size[0])[None, :, None]
    pixels = ramp + np.random.default_rng(0).integers(0, noise + 1, (size[1], size[0], 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Folder of a whole evaluation, its metrics, its page."""
    folder = tmp_path_factory.mktemp("evaluation")
    rows, extra = evaluation()
    metrics = write_metrics(folder, rows, extra)
    picture(folder / "montage_a.png")
    picture(folder / "montage_b.png")
    picture(folder / "tissues.png")
    pictures = [
        {"path": "tissues.png", "case": None, "caption": "bias by tissue"},
        {"path": "montage_a.png", "case": "LIDC-0001", "caption": "planes"},
        {"path": folder / "montage_b.png", "case": "LungDx-A0001_contrast", "caption": 'planes "<&'},
        {"path": "missing.png", "case": None, "caption": "gone"},
    ]
    write_report(folder, metrics, "A <title> & more", SETTINGS, pictures)
    path = write_html_report(folder, metrics, "A <title> & more", SETTINGS, pictures)
    assert path == folder / "report.html"
    return folder, metrics, path.read_text()


def test_the_page_fetches_nothing_and_runs_nothing(report):
    page = Page(report[2])
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(attributes["src"].startswith("data:image/") for attributes in page.all("img"))
    assert all(attributes["href"].startswith("#") for attributes in page.all("a"))
    assert "url(" not in report[2] and "@import" not in report[2] and "http://" not in report[2]
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]


def test_the_policy_allows_this_style_sheet_and_no_other(report):
    (policy,) = [a["content"] for a in Page(report[2]).all("meta") if "http-equiv" in a]
    (style,) = re.findall(r"<style>(.*?)</style>", report[2], flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"style-src 'sha256-{digest}'" in policy
    assert "style=" not in report[2], "the policy would refuse it"


def test_names_cannot_become_markup(report):
    folder, _, text = report
    assert "<b>case" not in text and "bad|&lt;b&gt;case&lt;/b&gt;" in text
    assert "<title>A &lt;title&gt; &amp; more</title>" in text
    assert "bad\\|\\<b\\>case\\</b\\>" in (folder / "report.md").read_text()


def test_hostile_names_pass_through_all_of_it(tmp_path):
    name = 'x"><script>alert(1)</script>\x00\udcfc\n| `b` ' + "y" * 300
    metrics = write_metrics(tmp_path, [{"case": name, "psnr": 30.0}, {"case": "ok", "psnr": 31.0}])
    pictures = [{"path": "no.png", "case": name, "caption": name}]
    page = Page(
        write_html_report(tmp_path, metrics, name, {name: name, "lines": f"a\n``` {name}"}, pictures).read_text()
    )
    assert not page.all("script")
    assert "<script>alert(1)</script>" in "".join(page.text), "as text"
    assert "\x00" not in "".join(page.text)
    table = [line for line in write_report(tmp_path, metrics, name, {}, []).read_text().splitlines() if "ok" in line]
    assert table, "the line break of a name does not cut the table"


def test_every_chapter_is_in_the_contents_and_every_part_has_a_name(report):
    page = Page(report[2])
    sections = [attributes["id"] for attributes in page.all("section")]
    assert [a["href"] for a in page.all("a") if "class" not in a] == [f"#{name}" for name in sections]
    assert len(set(sections)) == len(sections) == 12
    assert page.all("html")[0]["lang"] == "en"
    assert all(attributes["alt"] and attributes["width"] and attributes["height"] for attributes in page.all("img"))
    assert page.all("th") and all(a["scope"] in ("row", "col") for a in page.all("th"))
    regions = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert len(regions) == len(page.all("table")) == len(page.all("caption"))
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in regions)


def test_both_pages_say_the_same_in_the_same_order(report):
    folder, _, text = report
    markdown = (folder / "report.md").read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert titles == re.findall(r"^## (.*)$", markdown, flags=re.MULTILINE)
    assert titles[0] == "In short" and titles[-2:] == ["What the numbers mean", "How it was run"]
    spoken = "".join(Page(text).text)
    plain = re.sub(r"\\(.)", r"\1", markdown)
    cells = re.findall(r"<t[dh][^>]*>([^<]+)</t[dh]>", text)
    assert len(cells) > 500
    for cell in {cell for cell in cells if cell.strip()}:
        assert cell.replace("&lt;", "<").replace("&gt;", ">").replace("&#x27;", "'").replace("&amp;", "&") in plain
    assert "loses to HEVC" in spoken and "loses to HEVC" in plain


def test_pictures_stand_by_their_numbers_and_the_worst_case_comes_first(report):
    text = report[2]
    assert (
        text.index("HU by tissue and window</h2>")
        < text.index("bias by tissue")
        < text.index("Labelled structures</h2>")
    )
    pictures = text[text.index("Pictures</h2>") :]
    worst, other = pictures.index("LungDx-A0001_contrast: planes &quot;&lt;&amp;"), pictures.index("LIDC-0001: planes")
    assert worst < other
    assert "gone (missing.png: no picture, No such file or directory)" in pictures


def test_a_large_picture_is_made_small_and_a_small_one_keeps_every_pixel(tmp_path):
    small = picture(tmp_path / "small.png")
    assert base64.b64decode(embed(small).address.split(",")[1]) == small.read_bytes()
    large = picture(tmp_path / "large.png", (2400, 400), noise=12)
    assert large.stat().st_size > GOAL > AS_IT_IS
    address, width, height = embed(large)
    assert (width, height) == (1800, 300)
    content = base64.b64decode(address.split(",")[1])
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (1800, 300) and f"image/{image.format.lower()}" in address
        ramp = np.asarray(image.convert("L"), float).mean(0)
    assert len(content) < GOAL
    assert np.abs(np.diff(ramp[::100])).max() < 25 and ramp[0] < 20 and ramp[-1] > 230, "still the same picture"


def brightness(colour):
    """Relative luminance, WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_stands_out_from_its_paper(colours):
    for text in ("ink", "quiet", "link", "good", "bad"):
        for paper in ("paper", "raised"):
            light, dark = sorted((brightness(colours[text]), brightness(colours[paper])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {paper}"


def test_the_style_knows_paper_telephones_and_the_dark():
    assert all(query in STYLE for query in ("@media print", "size:A4", "prefers-color-scheme:dark", "max-width:30rem"))
    sizes = re.findall(r"font(?:-size)?:(?:\d+ )?([\d.]+)rem", STYLE[: STYLE.index("@media print")])
    assert sizes and min(map(float, sizes)) >= 1, "no text on a screen is smaller than 16 pixels"


def test_an_old_metrics_json_still_makes_a_page(tmp_path):
    scores = {"psnr": 28.0, "ssim": 0.82, "mae_hu": 38.8, "bits_per_voxel": 0.14, "usage": 0.99, "seconds": 1.7}
    old = {"cases": [{"case": "phantom_03", **scores}], "mean": scores, "num_infinite": {}, "num_missing": {}}
    (tmp_path / "metrics.json").write_text(json.dumps(old))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    page = Page(write_html_report(tmp_path, metrics, "Old", {}, []).read_text())
    assert [a["id"] for a in page.all("section")] == [
        "in-short",
        "case-by-case",
        "codes-and-rate",
        "what-the-numbers-mean",
    ]
    assert "28.00 dB" in "".join(page.text) and "n/a" not in "".join(page.text)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_at_390_pixels_tables_scroll_and_the_page_does_not(report, tmp_path):
    # a page is wider than its window if something sticks out; a frame of 390 pixels reports it by its scroll bar
    frame = tmp_path / "frame.html"
    probe = (
        "<script>onload=()=>{const d=document.documentElement;document.title=d.scrollWidth+' '+d.clientWidth}</script>"
    )
    page = re.sub(r"<meta http-equiv[^>]*>", "", report[2]).replace("</body>", f"{probe}</body>")
    (tmp_path / "page.html").write_text(page)
    frame.write_text(
        "<!doctype html><title></title><iframe id=f src=page.html width=390 height=900></iframe><script>"
        "onload=()=>{document.body.append(f.contentDocument.title)}</script>"
    )
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
            *(f"--user-data-dir={tmp_path}/profile", "--dump-dom", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    scroll, client = map(int, re.search(r"</script>(\d+) (\d+)</body>", done.stdout.replace("\n", "")).groups())
    assert 360 < client <= 390 and scroll <= client


def test_without_chromium_the_screenshots_are_skipped_with_a_reason(report, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    script = ROOT / "docs/make_report_screenshots.py"
    command = [sys.executable, str(script), str(report[0] / "report.html"), "--output", str(tmp_path / "shots")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("skipped: ") and len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "shots").exists()
