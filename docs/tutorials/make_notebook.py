"""Run phantom_to_reconstruction.ipynb from the top and keep what it shows: `python docs/tutorials/make_notebook.py`.

The kernel listens on a socket file, so no network is needed.
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from ctpa_vqgan.files import write_whole

NOTEBOOK = Path(__file__).with_name("phantom_to_reconstruction.ipynb")
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def executed(path: Path) -> NotebookNode:
    """The notebook with fresh outputs; a cell that fails raises its error.

    It runs in its own folder, as it does in Jupyter; a temporary one takes what a kernel keeps for itself.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
    with tempfile.TemporaryDirectory() as folder:
        socket = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        client = NotebookClient(notebook, config=Config(KernelManager=socket), timeout=300, record_timing=False)
        client.execute(env={**os.environ, "IPYTHONDIR": folder}, cwd=str(path.parent))
    # the versions of whoever ran it last say nothing of the notebook
    notebook.metadata = NotebookNode(KERNEL)
    return notebook


if __name__ == "__main__":
    write_whole(NOTEBOOK, nbformat.writes(executed(NOTEBOOK)) + "\n")
