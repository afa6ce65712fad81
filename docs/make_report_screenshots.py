"""Draw docs/images/report_1280.png and report_390.png: the top of a report.html as a desk and a telephone show it.

    python docs/make_report_screenshots.py runs/scores/report.html

Needs Chromium; without it nothing is drawn, and why is said in one line.
"""

import argparse
import html
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (1280, 390)  # CSS pixels
HEIGHT = 2000
MARGIN = 600  # a window narrower than about 500 pixels is not to be had, so the page lies in a frame on a wider one
MAX_BYTES = 600_000
SECONDS = 120


def screenshot(browser: str, report: Path, width: int, path: Path) -> None:
    """Save the top of a page, ``width`` x 2000 pixels, as PNG of at most 600 kB.

    Raises:
        RuntimeError: if the browser draws nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        wrapper, shot = Path(folder) / "frame.html", Path(folder) / "shot.png"
        address = html.escape(report.resolve().as_uri())
        style = f"border:0;position:absolute;left:0;top:0;width:{width}px;height:{HEIGHT}px"
        wrapper.write_text(f'<!doctype html><iframe src="{address}" style="{style}"></iframe>')
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={width + MARGIN},{HEIGHT + MARGIN}"]
        done = subprocess.run(
            [*command, f"--screenshot={shot}", wrapper.as_uri()], capture_output=True, text=True, timeout=SECONDS
        )
        if not shot.is_file():
            raise RuntimeError(f"{browser} drew nothing of {report}:\n{done.stderr}")
        with Image.open(shot) as image:
            picture = image.convert("RGB").crop((0, 0, width, HEIGHT))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        picture.quantize(128).save(path, optimize=True)


def main() -> None:
    """Draw both widths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="report.html of an evaluation")
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder of the pictures")
    options = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print(f"skipped: none of {', '.join(BROWSERS)} is installed; apt-get install chromium")
        return
    if not options.report.is_file():
        parser.error(f"{options.report}: no such file; give the report.html that evaluate wrote")
    for width in WIDTHS:
        path = options.output / f"report_{width}.png"
        screenshot(browser, options.report, width, path)
        print(path)


if __name__ == "__main__":
    main()
