"""Which variant of the tokenizer gives the most quality for its training time? One change at a time from the default.

    python benchmarks/quality.py TRAINING_VOLUME --score VOLUME [VOLUME ...] --json FILE
        [--minutes 12] [--seeds 0 1] [--only NAME ...] [--jobs 2]

A variant is a set of knobs of the bundle's train.yaml. Each trains on one CT for the same process CPU time, one thread,
by the package's own trainer, without discriminators (they would halve the steps of so short a training); a dear variant
makes fewer steps. The learning rate follows the share of the time: a short rise, then a cosine to zero. Scored is the
reconstruction by Gaussian windows of the middle of other patients' CTs, with the averaged weights.

Rows are appended to the JSON as runs finish, and a run that is in there is not repeated: the same command goes on after
an interruption, and refuses the file of another experiment. A variant beats the default only by more than the spread of
the seeds (the larger of the two).
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from ctpa_vqgan.data import load_volume, to_hu
from ctpa_vqgan.data.transforms import window_hu
from ctpa_vqgan.errors import user_error
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.inferers import VQGANInferer
from ctpa_vqgan.inferers.sliding import pad_to_multiple
from ctpa_vqgan.metrics import CodeCounter, bits_per_voxel, body_tokens, volume_fidelity
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.provenance import commit, facts
from ctpa_vqgan.trainer import VQGANTrainer, weight_ema

ROOT = Path(__file__).parents[1]
CONFIGS = [str(ROOT / "bundles/ctpa_vqgan/configs/train.yaml"), str(ROOT / "configs/cpu.yaml")]
DEFAULT = "default"
#: what every variant shares: patches small enough for many steps, codes made early
COMMON = {
    "patch_size": [32, 32, 32],
    "batch_size": 4,
    "codebook_init_steps": 50,
    "device": "cpu",
    "precision": "float32",
}
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "front end: haar": {"front_end": "haar"},
    "front end: none": {"front_end": "none", "channels": [16, 32, 64]},
    "norm: group": {"norm": "group"},
    "quantizer: fsq, 8x8x8x4x4": {"quantizer": "fsq"},
    "quantizer: residual, 2 x 90": {"quantizer": "residual", "num_embeddings": 90},
    "quantizer: residual, 2 x 8192 (twice the bits)": {"quantizer": "residual"},
    "code dimension 4": {"embedding_dim": 4},
    "code dimension 16": {"embedding_dim": 16},
    "cosine codes": {"normalize_codes": True},
    "loss: without gradient term": {"loss_weights::perceptual": 0.0},
    "loss: with display windows": {"loss_weights::windowed_l1": 0.5},
}
SCORE_SIZE, WINDOW = (192, 192, 64), (64, 64, 32)
WARMUP = 0.05  # share of the time in which the learning rate rises


class CpuTimeCosine:
    """Learning rate by the share of the CPU time that is used up."""

    def __init__(self, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        self.optimizer, self.seconds, self.began = optimizer, seconds, time.process_time()
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.step()

    @property
    def share(self) -> float:
        """Of the time, 0 to 1."""
        return min(1.0, (time.process_time() - self.began) / self.seconds)

    def step(self) -> None:
        """Set the rate of now."""
        factor = min(1.0, 0.01 + self.share / WARMUP) * (1 + math.cos(math.pi * self.share)) / 2
        for group, base in zip(self.optimizer.param_groups, self.base):
            group["lr"] = base * factor


class RandomPatches(torch.utils.data.IterableDataset):
    """Endless batches of patches of one volume [1, X, Y, Z], flipped at random: a function of the seed."""

    def __init__(self, volume: torch.Tensor, patch: list[int], batch: int, seed: int) -> None:
        self.volume, self.patch, self.batch, self.seed = volume, patch, batch, seed

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)

        def draw(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        while True:
            patches = []
            for _ in range(self.batch):
                starts = [draw(whole - side + 1) for whole, side in zip(self.volume.shape[1:], self.patch)]
                cut = self.volume[(slice(None), *(slice(a, a + s) for a, s in zip(starts, self.patch)))]
                patches.append(cut.flip([axis for axis in (1, 2, 3) if draw(2)]))
            yield {"image": torch.stack(patches)}


def scaled(path: str, hu_window: list[float]) -> torch.Tensor:
    """[1, X, Y, Z] on the network's scale."""
    item = window_hu(hu_window)(load_volume()({"image": path}))
    return item["image"].as_tensor().contiguous()


def middle(volume: torch.Tensor) -> torch.Tensor:
    """Up to ``SCORE_SIZE`` voxels from the middle of [1, X, Y, Z]."""
    sides = [min(whole, side) for whole, side in zip(volume.shape[1:], SCORE_SIZE)]
    starts = [(whole - side) // 2 for whole, side in zip(volume.shape[1:], sides)]
    return volume[(slice(None), *(slice(a, a + s) for a, s in zip(starts, sides)))]


def train(knobs: dict[str, Any], path: str, seconds: float, seed: int) -> tuple[VQGAN, VQGAN, int, list[float]]:
    """Train one variant: averaged network, last network, iterations, HU window."""
    torch.manual_seed(seed)
    parser = ConfigParser()
    parser.read_config(CONFIGS)
    parser.update({**COMMON, **knobs})
    network, losses = parser.get_parsed_content("network_def"), parser.get_parsed_content("losses")
    optimizer = parser.get_parsed_content("g_optimizer")
    hu_window, (patch, batch) = parser["hu_window"], (parser["patch_size"], parser["batch_size"])
    patches = RandomPatches(scaled(path, hu_window), patch, batch, seed)
    schedule = CpuTimeCosine(optimizer, seconds)
    trainer = VQGANTrainer(
        device="cpu",
        max_epochs=1,
        epoch_length=10**9,
        train_data_loader=torch.utils.data.DataLoader(patches, batch_size=None),
        network=network,
        losses=losses,
        g_optimizer=optimizer,
        g_scheduler=schedule,
        ema=weight_ema(network, parser["ema_decay"]),
        micro_batch_size=batch,
        precision="float32",
        hu_window=hu_window,
        decollate=False,
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: engine.terminate() if schedule.share >= 1 else None
    )
    trainer.run()
    return trainer.ema.module.eval(), network.eval(), trainer.state.iteration, hu_window


@torch.no_grad()
def score(network: VQGAN, volume: torch.Tensor, hu_window: list[float]) -> dict[str, float]:
    """Fidelity of the windowed reconstruction of [1, X, Y, Z], and how the codes of the volume are used."""
    reconstruction = VQGANInferer(WINDOW)(volume[None], network)
    result = volume_fidelity(to_hu(reconstruction[0, 0], hu_window), to_hu(volume[0], hu_window))
    whole = pad_to_multiple(volume[None], network.factor, -1.0)
    counter, body = CodeCounter(network.num_embeddings), body_tokens(to_hu(whole, hu_window), network.factor)
    counter.update(network.index_quantize(whole), body)
    rate = bits_per_voxel(1, network.num_embeddings, math.prod(network.factor))
    return {**result, **counter.summary(), "bits_per_voxel": rate}


def run_one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one variant with one seed; a row of the table."""
    torch.set_num_threads(1)
    averaged, last, iterations, hu_window = train(VARIANTS[name], options.volume, 60 * options.minutes, seed)
    row = {"variant": name, "seed": seed, "minutes": options.minutes, "iterations": iterations, "cases": {}}
    row |= {"trained_on": Path(options.volume).name, "commit": commit()}
    row["parameters"] = sum(p.numel() for p in averaged.parameters())
    for path in options.score:
        volume = middle(scaled(path, hu_window))
        row["cases"][Path(path).name.split(".")[0]] = {
            "averaged": score(averaged, volume, hu_window),
            "last": score(last, volume, hu_window),
        }
    return row


def psnr(row: dict[str, Any], weights: str = "averaged") -> float:
    """Mean over the scored volumes, in dB."""
    return statistics.mean(case[weights]["psnr"] for case in row["cases"].values())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: every variant against the default, by PSNR in dB, with the verdict that the spread of seeds allows."""
    by_variant = {name: [r for r in rows if r["variant"] == name] for name in VARIANTS}
    by_variant = {name: found for name, found in by_variant.items() if found}
    cases = list(rows[0]["cases"])
    lines = [
        "| variant | steps | PSNR [dB], by seed | against default | " + " | ".join(f"{c}: PSNR, SSIM" for c in cases)
    ]
    lines[0] += " | perplexity (body) | bits per voxel | verdict |"
    lines.append("|---|---:|---:|---:|" + "---:|" * len(cases) + "---:|---:|---|")

    def line(
        name: str, found: list[dict], values: list[float], against: float, verdict: str, weights: str = "averaged"
    ) -> str:
        def mean(found: list[dict], case: str, key: str) -> float:
            return statistics.mean(row["cases"][case][weights][key] for row in found)

        columns = [name, f"{statistics.mean(row['iterations'] for row in found):.0f}"]
        columns += [", ".join(f"{value:.2f}" for value in values), f"{against:+.2f}"]
        columns += [f"{mean(found, case, 'psnr'):.2f}, {mean(found, case, 'ssim'):.3f}" for case in cases]
        columns += [f"{statistics.mean(mean(found, case, 'body_perplexity') for case in cases):.0f}"]
        columns += [f"{mean(found, cases[0], 'bits_per_voxel'):.3f}", verdict]
        return "| " + " | ".join(columns) + " |"

    def spread(values: list[float]) -> float:
        return max(values) - min(values)

    def judged(against: float, noise: float, runs: int) -> str:
        if math.isnan(against) or runs < 2:
            return "one seed: no verdict" if runs == 1 else ""
        return "within the spread" if abs(against) <= noise else "better" if against > 0 else "worse"

    reference = [psnr(row) for row in by_variant.get(DEFAULT, [])]
    for name, found in by_variant.items():
        values = [psnr(row) for row in found]
        against = statistics.mean(values) - statistics.mean(reference) if reference else math.nan
        noise = max(spread(values), spread(reference)) if reference else math.nan
        lines.append(
            line(
                name,
                found,
                values,
                against,
                "" if name == DEFAULT else judged(against, noise, min(len(found), len(reference))),
            )
        )
        if name == DEFAULT:
            last = [psnr(row, "last") for row in found]
            against = statistics.mean(last) - statistics.mean(values)
            verdict = judged(against, max(spread(last), spread(values)), len(found))
            lines.append(line("weights of the last step, not averaged", found, last, against, verdict, "last"))
    return "\n".join(lines)


def markdown(content: dict[str, Any]) -> str:
    """The table, and how it came about."""
    rows = content["rows"]
    commits, minutes = sorted({row["commit"] for row in rows}), {row["minutes"] for row in rows}
    length = " and ".join(map(str, sorted(minutes)))
    return (
        f"{table(rows)}\n\n`{content['command']}` (`--seeds` and `--only` in several calls). Trained on "
        f"{rows[0]['trained_on']}, {length} CPU minutes a run, {sum(row['iterations'] for row in rows)} steps in "
        f"{len(rows)} runs; on {content['hardware']}; commit {', '.join(commits)}, {content['versions']}, "
        f"{content['date']}."
    )


def refuse_what_cannot_be(parser: argparse.ArgumentParser, options: argparse.Namespace, rows: list[dict]) -> None:
    """End before anything is trained: rows of another experiment, the training volume scored, a file that is none."""
    asked = {"minutes": options.minutes, "trained_on": Path(options.volume).name}
    scored = sorted(Path(path).name.split(".")[0] for path in options.score)
    for row in rows:
        if any(row[key] != value for key, value in asked.items()) or sorted(row["cases"]) != scored:
            parser.error(
                f"{options.json} holds runs of {row['minutes']} minutes on {row['trained_on']}, scored on "
                f"{', '.join(row['cases'])}; give the same, or another file"
            )
    if Path(options.volume).resolve() in [Path(path).resolve() for path in options.score]:
        parser.error(f"{options.volume} is trained on; score the volumes of other patients")
    for path in (options.volume, *options.score):
        try:
            scaled(path, [-1000.0, 1000.0])
        except Exception as error:
            parser.error(str(user_error(error) or error))


def command_of(options: argparse.Namespace) -> str:
    """The command for anyone: files by their names, not where they lie here."""
    names = [Path(path).name for path in options.score]
    words = ["python", "benchmarks/quality.py", Path(options.volume).name, "--score", *names]
    return shlex.join([*words, "--minutes", f"{options.minutes:g}", "--json", options.json.name])


def run_all(missing: list[tuple[str, int]], options: argparse.Namespace, known: dict[str, Any]) -> None:
    """Run, ``options.jobs`` at a time; write after each. The first failure, or Ctrl-C, ends all."""
    running: set[subprocess.Popen] = set()
    writing = threading.Lock()

    def run(name: str, seed: int) -> None:
        child = subprocess.Popen(
            [sys.executable, *sys.argv, "--row", name, str(seed)], stdout=subprocess.PIPE, text=True
        )
        running.add(child)
        text = child.communicate()[0]
        running.discard(child)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, f"{name}, seed {seed}")
        with writing:
            known["rows"].append(json.loads(text.splitlines()[-1]))
            told = {**known, **facts(), "command": command_of(options)}
            write_whole(options.json, json.dumps(told, indent=1) + "\n")
            print(f"{len(known['rows'])} runs done: {name}, seed {seed}, {psnr(known['rows'][-1]):.2f} dB", flush=True)

    pool = ThreadPoolExecutor(options.jobs)
    try:
        for future in as_completed([pool.submit(run, *pair) for pair in missing]):
            future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in list(running):
            child.terminate()


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", help="to train on")
    parser.add_argument("--score", nargs="+", required=True, help="volumes of other patients")
    parser.add_argument("--json", type=Path, required=True, help="where rows go, and are looked up")
    parser.add_argument("--minutes", type=float, default=12.0, help="of process CPU time, per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--row", nargs=2, metavar=("NAME", "SEED"), help="one run; its row as JSON on stdout")
    options = parser.parse_args()
    if options.row:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
        print(json.dumps(run_one(options.row[0], int(options.row[1]), options)))
        return
    known = json.loads(options.json.read_text()) if options.json.is_file() else {"rows": []}
    refuse_what_cannot_be(parser, options, known["rows"])
    done = {(row["variant"], row["seed"]) for row in known["rows"]}
    run_all(
        [(name, seed) for name in options.only for seed in options.seeds if (name, seed) not in done], options, known
    )
    if known["rows"]:
        print(table(known["rows"]))


if __name__ == "__main__":
    main()
