"""The notebook runs from the top, and its stored output is what it gives."""

import base64
import io
import runpy

import nbformat
import numpy as np
import pytest
from PIL import Image
from tutorial_pages import TUTORIALS, differences

NOTEBOOK = TUTORIALS / "phantom_to_reconstruction.ipynb"


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def fresh():
    return runpy.run_path(str(TUTORIALS / "make_notebook.py"))["executed"](NOTEBOOK)


def texts(notebook) -> list[str]:
    return [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]


def pictures(notebook) -> list[np.ndarray]:
    """Grey values of the pictures, averaged over blocks of 8 x 8: fonts and single voxels do not count."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                image = Image.open(io.BytesIO(base64.b64decode(png))).convert("L")
                found.append(np.asarray(image.reduce(8), float))
    return found


def test_the_stored_notebook_is_small_and_shows_pictures(stored):
    assert NOTEBOOK.stat().st_size < 300_000
    assert len(pictures(stored)) == 5
    assert not [output for cell in stored.cells for output in cell.get("outputs", []) if output.output_type == "error"]


def test_the_notebook_gives_the_output_that_is_stored_in_it(stored, fresh):
    """If not, `python docs/tutorials/make_notebook.py` stores what it gives now."""
    shown, given = texts(stored), texts(fresh)
    assert len(shown) == len(given)
    assert [found for pair in zip(shown, given) for found in differences(*pair)] == []
    seen, drawn = pictures(stored), pictures(fresh)
    assert [image.shape for image in seen] == [image.shape for image in drawn]
    # of 255; another CPU trains to other weights in the last digits, and the colours of codes are names
    errors = [np.abs(a - b).mean() for a, b in zip(seen, drawn)]
    assert max(errors) < 12, errors


def test_the_notebook_learns_something(fresh):
    (reconstruction, *_) = (text for text in texts(fresh) if text.startswith("PSNR"))
    assert float(reconstruction.split()[1]) > 20
