"""A folder in which commands of the pages can be typed: a copy of the repository with what placeholders stand for."""

from __future__ import annotations

import contextlib
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import commands
from pages import BUNDLE, ROOT, Block

from ctpa_vqgan.manifest import write_manifest

#: of the repository what commands use: somebody's data may lie there too
FOLDERS = ("benchmarks", "bundles", "configs", "ctpa_vqgan", "docs", "tests")
FILES = ("*.md", "*.cfg", "*.cff", "*.toml", "*.txt", "*.yml", "LICENSE", "Makefile")
CHEST, SPACING_MM = (48, 44, 40), (7.5, 8.0, 9.0)  # voxels, and mm: a whole chest
FIRST = "runs/first"
MADE = [  # what pages go on with: the training that everybody refers to, and what comes of it
    f"python -m ctpa_vqgan train --data DATA --output {FIRST}",
    f"python -m ctpa_vqgan inference --checkpoint {FIRST}/model.pt --data VOLUMES --output runs/reconstructed",
    f"python -m ctpa_vqgan encode --checkpoint {FIRST}/model.pt --data VOLUMES --output runs/codes",
    f"python -m ctpa_vqgan decode --checkpoint {FIRST}/model.pt --data runs/codes --output runs/decoded",
    f"python -m ctpa_vqgan evaluate --checkpoint {FIRST}/model.pt --data VOLUMES --output runs/scores",
]
PROGRAMS = ("python", "torchrun", "make")


class Sandbox:
    """The folder.

    Args:
        place: an empty folder to make it in.
    """

    def __init__(self, place: Path) -> None:
        self.root = place / ROOT.name
        self.root.mkdir()
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, self.root / folder, ignore=shutil.ignore_patterns("__pycache__", "eval"))
        for file in (file for pattern in FILES for file in ROOT.glob(pattern)):
            shutil.copy2(file, self.root)
        (self.root / ".venv").symlink_to(sys.prefix)
        write_manifest(self.root / BUNDLE)  # whether the repository's is up to date is for another test
        self.ours = {folder: {path.name for path in folder.iterdir()} for folder in (self.root, self.root / BUNDLE)}
        self.overlays = commands.write_overlays(place / "overlays")
        self.programs = _write_programs(place / "bin")
        self.store = place / "store"
        self.folder = self.root
        self._fill()

    def _fill(self) -> None:
        """Make what placeholders stand for, in a folder from which :meth:`enter` takes them."""
        import torch
        from baseline_state import make_state

        from ctpa_vqgan.data.phantom import write_phantom_dataset

        volumes = write_phantom_dataset(self.store / "phantoms", 4, CHEST, SPACING_MM, labels=True)
        (self.store / "phantoms_labels").rename(self.store / "MAPS")
        shutil.copytree(self.store / "phantoms", self.store / "DATA")
        (self.store / "VOLUMES").mkdir()
        for number, volume in enumerate(volumes[:2]):
            shutil.copy(volume, self.store / "VOLUMES")
            (self.store / f"EXPORT/study_{number}").mkdir(parents=True)
            shutil.copy(volume, self.store / f"EXPORT/study_{number}/ct.nii.gz")
        shutil.copy(volumes[0], self.store / "VOLUME.nii.gz")
        # 32 groups, as the original's code has them, need as many channels
        torch.save({"state_dict": make_state(width=32, critics=True)}, self.store / "PEER.ckpt")
        with contextlib.chdir(self.store):
            for command in MADE:
                run_here(commands.small(shlex.split(command), self.overlays))

    def enter(self, block: Block, lines: Sequence[str] = ()) -> Path:
        """Make the folder in which a block is typed as if nothing had been typed yet.

        Args:
            block: says where it is typed.
            lines: that will be run; what they write is not there yet, unless they read it first.
        """
        for folder, ours in self.ours.items():
            for path in folder.iterdir():
                if path.name not in ours:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.folder = self.root / BUNDLE if commands.is_typed_in_bundle(block) else self.root
        shutil.copytree(self.store, self.folder, dirs_exist_ok=True)
        read: set[str] = set()
        for line in lines:
            for words in commands.simple_commands(line):
                written = commands.outputs(words)
                for name in written:
                    if not any(f"{word}/".startswith(f"{name}/") for word in read):
                        shutil.rmtree(self.folder / name, ignore_errors=True)
                read |= set(words)
        return self.folder

    def run(self, line: str) -> None:
        """Run one quick command in the folder that was entered; AssertionError unless it ends with 0."""
        (words,) = commands.simple_commands(line)
        with contextlib.chdir(self.folder):
            if words[:2] == ["python", "-m"]:
                run_here(commands.small(words, self.overlays))
            else:
                self.shell(line)

    def check_outputs(self, lines: Sequence[str]) -> None:
        """AssertionError unless every folder that the lines name as their output holds something."""
        for words in (words for line in lines for words in commands.simple_commands(line)):
            for name in commands.outputs(words):
                written = self.folder / name
                assert written.is_dir() and any(written.iterdir()), (
                    f"nothing was written to {name}: {shlex.join(words)}"
                )

    def shell(self, script: str, timeout: float = 1800.0) -> str:
        """Run lines by bash as they stand; ``python``, ``torchrun`` and ``make`` are ours (:data:`PROGRAMS`).

        Returns:
            What was printed.
        """
        environment = os.environ | {
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DOCS_OVERLAYS": str(self.overlays),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        with subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                told, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                raise
        assert process.returncode == 0, f"ended with {process.returncode}:\n{script}\n{told}"
        return told


def _write_programs(folder: Path) -> Path:
    """Small programs that add the small knobs, ahead of the real ones in PATH."""
    folder.mkdir()
    for name in PROGRAMS:
        script = f'#!/bin/bash\nexec {shlex.quote(sys.executable)} {ROOT}/tests/docs/commands.py {name} "$@"\n'
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder


def run_here(words: Sequence[str]) -> None:
    """``python -m MODULE ...`` in this process, which spares the imports; AssertionError unless it ends with 0."""
    module, given = words[2], list(words[3:])
    begun = time.process_time()
    with _arguments([module, *given]):
        try:
            runpy.run_module(f"{module}.__main__", run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    assert code == 0, f"ended with {code}: {shlex.join(words)}"
    seconds = time.process_time() - begun
    assert seconds < 20, f"{seconds:.0f} s of a processor, so docs-check should run it: {shlex.join(words)}"


@contextlib.contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before
