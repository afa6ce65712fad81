"""``python -m ctpa_vqgan``: the front door on the command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
from collections.abc import Sequence

from ctpa_vqgan import __version__
from ctpa_vqgan.cli.workflows import SHARED, WORKFLOWS, find_bundle, run_workflow
from ctpa_vqgan.errors import Stopped, UserError, printable, user_error
from ctpa_vqgan.rendezvous import has_failed, is_first_to_say

BUNDLE_HELP = "folder of the bundle, if it is not the one of the source tree"
RESUMES = {
    "train": "; the same command goes on from the last checkpoint",
    "demo": "; the same command goes on from the last checkpoint",
    "evaluate": "; finished cases are kept, the same command goes on",
    "inference": "; finished cases are kept, the same command goes on",
    "prepare": "; finished cases are kept, the same command goes on",
    "encode": "; finished cases are kept, the same command goes on",
    "decode": "; finished cases are kept, the same command goes on",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit code: 0 done, 1 a user's error (one line on stderr), 2 wrong usage, 3 done but for files that were
        refused, 4 training or a network gave nothing but numbers that are not finite, 130 interrupted,
        143 told to end by SIGTERM, 138 by SIGUSR1, 141 as nobody reads what is printed (``| head``).
    """
    options = _parser().parse_args(arguments)
    try:
        code = options.function(options) or 0
        sys.stdout.flush()
        return code
    except Stopped as stopped:
        return stopped.code
    except KeyboardInterrupt:
        hint = RESUMES.get(options.name, "")
        print(f"interrupted{hint}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        has_failed()
        cause = user_error(error)
        if cause is None:
            raise
        told = printable(str(cause))
        if is_first_to_say(told):
            print(f"error: {told}", file=sys.stderr)
        return getattr(cause, "exit_code", 1)


def _nobody_reads() -> bool:
    """Whether what is printed goes nowhere, as behind ``| head``; then let Python end without complaint."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    if broken := any(event & select.POLLERR for _, event in watch.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return broken


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ctpa_vqgan", description="A 3-D VQ-GAN tokenizer for full-resolution CT, built on MONAI."
    )
    parser.add_argument("--version", action="version", version=f"ctpa_vqgan {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    prepare = commands.add_parser("prepare", help="make a checked, fast data set of DICOM, NIfTI, NRRD and MetaImage")
    prepare.add_argument("input", nargs="+", help="files, folders and archives (tar, zip), in any nesting")
    prepare.add_argument("--output", required=True, help="folder of the data set; the same command again goes on there")
    prepare.add_argument("--workers", type=int, help="processes; one a core, at most 8, if not given")
    prepare.add_argument("--val-fraction", type=float, default=0.1, help="share of the patients held out")
    prepare.add_argument("--seed", type=int, default=0, help="of the division into training and validation")
    prepare.add_argument("--patients", metavar="CSV", help="columns file and patient, where DICOM does not tell")
    prepare.add_argument(
        "--size",
        type=int,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="bring every volume to a coarser grid of so many voxels, such as 256 256 64; its own grid if not given",
    )
    prepare.add_argument(
        "--shard", metavar="I/N", help="a part of the volumes, such as 1/4, for array jobs; the last joins all parts"
    )
    prepare.set_defaults(function=_prepare, name="prepare")
    for name, workflow in WORKFLOWS.items():
        command = commands.add_parser(
            name, help=workflow.help, description=f"{workflow.help} (a MONAI bundle workflow)"
        )
        volumes = "a volume, a folder of volumes or DICOM, or a folder with dataset.json"
        command.add_argument("--data", help="a code file, or a folder of them" if name == "decode" else volumes)
        command.add_argument("--output", help="folder for everything that is written")
        if name == "replay":
            command.add_argument("--dump", required=True, metavar="FILE", help="bad_step_*.pt that the run left")
        elif name != "train":
            command.add_argument("--checkpoint", help="model.pt of a run; the model.yaml beside it is used too")
        if name == "evaluate":
            command.add_argument("--labels", metavar="PATH", help="label map, or a folder of <case>.nii.gz")
        if name == "evaluate":
            command.add_argument(
                "--sweep",
                dest="name",
                action="store_const",
                const="sweep",
                help="compare overlaps, blending and windows on the first case instead, and suggest a setting",
            )
        if name in SHARED:
            command.add_argument(
                "--shard",
                metavar="I/N",
                help="part I of N of the cases, counted from 1, for array jobs; torchrun's ranks share by themselves",
            )
        if name == "encode":
            command.add_argument(
                "--max-error-hu", type=int, metavar="E", help="bound the error of every voxel; 0 is lossless"
            )
        command.add_argument("--overlay", action="append", default=[], metavar="FILE", help="one more config file")
        command.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override one knob")
        command.add_argument("--bundle", help=BUNDLE_HELP)
        command.add_argument(
            "--trust",
            action="store_true",
            help="let the overlays hold expressions and components: they can run any code, so trust who wrote them",
        )
        command.set_defaults(function=_workflow, name=name, checkpoint=None)
    imports = commands.add_parser(
        "import-checkpoint", help="take over a VQ-GAN of TATS, medicaldiffusion or X-ray2CTPA"
    )
    imports.add_argument("checkpoint", metavar="PEER.ckpt", help="Lightning checkpoint or state_dict; never executed")
    imports.add_argument("--output", required=True, help="folder for model.pt and model.yaml")
    imports.add_argument("--factor", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels per code, if not told")
    imports.add_argument("--num-groups", type=int, metavar="N", help="groups of the norm, if not 32")
    imports.add_argument("--hu-window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="HU at -1 and 1")
    imports.add_argument("--patch-size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels of the windows")
    imports.set_defaults(function=_import_checkpoint, name="import-checkpoint")
    verify = commands.add_parser("verify", help="compare the bundle's files with the SHA-256 in its manifest.sha256")
    verify.add_argument("--bundle", help=BUNDLE_HELP)
    verify.add_argument("--write", action="store_true", help="write the manifest anew, after a change that was meant")
    verify.set_defaults(function=_verify, name="verify")
    plan = commands.add_parser("plan", help="foretell memory, steps, disk, network and time of a training")
    plan.add_argument("--data", help="what will be trained on; only headers are read")
    plan.add_argument("--num-volumes", type=int, default=1349, help="volumes of 512 x 512 x 604 voxels, without --data")
    plan.add_argument("--overlay", action="append", default=[], metavar="FILE", help="one more config file")
    plan.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override one knob")
    plan.add_argument("--device-gb", type=float, default=24.0, metavar="GB", help="memory of the device to train on")
    plan.add_argument("--world-size", type=int, default=1, metavar="N", help="ranks that train together, a GPU each")
    plan.add_argument(
        "--network-gbit",
        type=float,
        default=10.0,
        metavar="GBIT",
        help="Gbit/s between ranks, each way; 10 if not given",
    )
    plan.add_argument("--calibrate", action="store_true", help="try a few steps on this machine, for the time")
    plan.add_argument("--json", metavar="FILE", help="write the numbers here too")
    plan.add_argument("--bundle", help=BUNDLE_HELP)
    plan.set_defaults(function=_plan, name="plan")
    demo = commands.add_parser("demo", help="train, reconstruct and report in a few minutes")
    demo.add_argument("--data", help="folder of CT volumes; phantoms are made without it")
    demo.add_argument("--output", default="runs/demo", help="folder for everything that is written")
    demo.set_defaults(function=_demo, name="demo")
    phantom = commands.add_parser("phantom", help="write synthetic CT pulmonary angiograms as NIfTI")
    phantom.add_argument("--output", required=True, help="folder for the volumes")
    phantom.add_argument("--num-volumes", type=int, default=1)
    phantom.add_argument("--size", type=int, nargs=3, default=(512, 512, 604), metavar=("X", "Y", "Z"))
    phantom.add_argument("--spacing-mm", type=float, nargs=3, default=(0.7, 0.7, 0.6), metavar=("X", "Y", "Z"))
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--labels", action="store_true", help="write the label maps too, into OUTPUT_labels")
    phantom.set_defaults(function=_phantom, name="phantom")
    return parser


def _workflow(options: argparse.Namespace) -> None:
    own = {"max_error_hu": getattr(options, "max_error_hu", None), "replay_path": getattr(options, "dump", None)}
    own["labels"] = getattr(options, "labels", None)
    if own["labels"] is not None and options.name == "sweep":
        raise UserError("--labels: --sweep measures no structures; leave it out, or evaluate without --sweep")
    own["shard"] = getattr(options, "shard", None)
    if own["shard"] is not None and options.name == "sweep":
        raise UserError("--shard: --sweep looks at one case; leave it out, or evaluate without --sweep")
    own = {knob: json.dumps(value) for knob, value in own.items() if value is not None}  # a path may look like YAML
    run_workflow(
        options.name,
        data=options.data,
        output=options.output,
        checkpoint=options.checkpoint,
        overlays=options.overlay,
        settings=options.set + [f"{knob}={value}" for knob, value in own.items()],
        bundle=options.bundle,
        trust=options.trust,
    )


def _verify(options: argparse.Namespace) -> int:
    from ctpa_vqgan.manifest import MANIFEST, compare, write_manifest

    bundle = find_bundle(options.bundle)
    if options.write:
        print(f"{bundle / MANIFEST}: {write_manifest(bundle)} files")
        return 0
    found = compare(bundle)
    for kind, names in found._asdict().items():
        for name in names:
            print(f"{kind}: {printable(name)}")
    if not any(found):
        print(f"{bundle}: every file is as its manifest says")
    return int(any(found))


def _import_checkpoint(options: argparse.Namespace) -> None:
    from ctpa_vqgan.cli.import_checkpoint import run_import

    run_import(
        options.checkpoint,
        options.output,
        factor=options.factor,
        num_groups=options.num_groups,
        hu_window=options.hu_window,
        patch_size=options.patch_size,
    )


def _prepare(options: argparse.Namespace) -> int:
    from ctpa_vqgan.prepare import prepare
    from ctpa_vqgan.refusals import REFUSED

    settings = {"workers": options.workers, "val_fraction": options.val_fraction, "seed": options.seed}
    settings |= {"patients": options.patients, "shard": options.shard, "size": options.size}
    result = prepare(options.input, options.output, **settings)
    cases = "1 case" if len(result.accepted) == 1 else f"{len(result.accepted)} cases"
    told = f"{cases} accepted, {len(result.refused)} refused"
    if not result.missing:
        print(f"{told}: see {options.output}/report.md")
    elif options.shard:  # torchrun's processes wait for the last one, which tells of all
        count, missing = result.shard.count, ", ".join(map(str, result.missing))
        told = f"shard {result.shard}: {told}; {count - len(result.missing)} of {count} shards are done"
        print(f"{told}, the last to end makes the data set (missing: {missing})")
    return REFUSED if result.any_refused else 0


def _plan(options: argparse.Namespace) -> None:
    from ctpa_vqgan.plan import run_plan

    run_plan(
        json_file=options.json,
        data=options.data,
        overlays=options.overlay,
        settings=options.set,
        bundle=options.bundle,
        device_gb=options.device_gb,
        num_volumes=options.num_volumes,
        calibrate=options.calibrate,
        world_size=options.world_size,
        network_gbit=options.network_gbit,
    )


def _demo(options: argparse.Namespace) -> None:
    from ctpa_vqgan.cli.demo import run_demo

    run_demo(options.data, options.output)


def _phantom(options: argparse.Namespace) -> None:
    from ctpa_vqgan.data.phantom import write_phantom_dataset

    size, spacing_mm = tuple(options.size), tuple(options.spacing_mm)
    for path in write_phantom_dataset(
        options.output, options.num_volumes, size, spacing_mm, options.seed, labels=options.labels
    ):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
