"""What the bundle's configs call: settings derived from knobs, checks of what the user gave, one-line errors."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import logging
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer

from ctpa_vqgan import ranks
from ctpa_vqgan.data import Case, GridPatches, RandomPatchDataset, validation_cases
from ctpa_vqgan.data.patches import check_sizes
from ctpa_vqgan.errors import UserError, printable, user_error
from ctpa_vqgan.evaluation.details import MEASURES
from ctpa_vqgan.handlers import load_weights
from ctpa_vqgan.inferers import VQGANInferer
from ctpa_vqgan.inferers.bf16_check import trusted_precision
from ctpa_vqgan.inferers.exact import DEFAULT_TILE
from ctpa_vqgan.inferers.sliding import overlap_of as overlap
from ctpa_vqgan.losses import LPIPS
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.networks.discriminators import min_side
from ctpa_vqgan.networks.vqgan import checked_factor
from ctpa_vqgan.precision import PRECISIONS, uses_bf16
from ctpa_vqgan.provenance import facts
from ctpa_vqgan.rendezvous import has_failed, is_first_to_say
from ctpa_vqgan.replay import replay
from ctpa_vqgan.rivals import CODECS
from ctpa_vqgan.sweep import default_windows, sweep
from ctpa_vqgan.tokens import network_fingerprint
from ctpa_vqgan.trainer import GAN_TERMS
from ctpa_vqgan.transcode import decode_files, encode_cases

__all__ = [
    "autocasts",
    "begin",
    "budget_bytes",
    "cases_told",
    "check_discriminators",
    "check_evaluation",
    "check_knobs",
    "check_memory",
    "check_ranks",
    "decode_files",
    "default_device",
    "default_stride",
    "default_windows",
    "encode_cases",
    "facts",
    "first_cases",
    "join_ranks",
    "judged_by",
    "leave_ranks",
    "load_weights",
    "lpips",
    "overlap",
    "rank_cases",
    "replay",
    "report_settings",
    "run_sweep",
    "start_from",
    "tile_precision",
    "trusted_precision",
    "window_precision",
]

SHARES = ("val_fraction", "ema_decay", "codebook_decay")

logger = logging.getLogger(__name__)


def begin(seed: int, deterministic: bool = False) -> None:
    """First step of every workflow: seed what draws, and end on a user's error with one line instead of a traceback.

    Args:
        seed: of PyTorch's global generators: first weights.
        deterministic: bit for bit the same results on CUDA too, by kernels that may be slower; a CPU gives that anyway.
    """
    sys.excepthook = _one_line
    if not ranks.is_main():
        logging.disable(logging.INFO)  # rank 0 says it for all
    torch.manual_seed(seed)
    # patches have one size: let cuDNN look for its fastest kernels once; which ones win may differ from run to run
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch asks for it
    if deterministic or torch.are_deterministic_algorithms_enabled():  # the call alone loads a compiler: a second
        torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory


def join_ranks(device: torch.device | str, timeout: float) -> None:
    """Make one training of the processes that torchrun started: NCCL between GPUs, gloo between CPUs.

    Args:
        device: of this process.
        timeout: seconds that a rank waits for the others before it gives up; validation and data count too.

    Raises:
        UserError: torchrun did not start this process, there is no GPU for it, or the others do not come.
    """
    if "WORLD_SIZE" not in os.environ:
        raise UserError(
            "multi_gpu_train.yaml: expected to be started by torchrun (--standalone --nproc_per_node=GPUS -m "
            "monai.bundle run ...), found no WORLD_SIZE; for one GPU leave this file out"
        )
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not timeout > 0:
        raise UserError(f"rank_timeout: expected a number of seconds above 0, found {timeout!r}")
    device, hook = torch.device(device), sys.excepthook
    if device.type == "cuda":
        if device.index is None or device.index >= torch.cuda.device_count():
            raise UserError(
                f"device: expected one of {torch.cuda.device_count()} GPUs of this machine for each of its processes, "
                f"found {device} for LOCAL_RANK {os.environ.get('LOCAL_RANK')}; leave device out, and start at most as "
                "many processes as there are GPUs (--nproc_per_node)"
            )
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        torch.distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"rank {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']}: could not join the others ({reason}); check "
            "the network between them (GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name its interface)"
        ) from error
    finally:
        sys.excepthook = hook  # PyTorch puts one before it that loses the line of a user's error
    places = ranks.gather((platform.node(), str(device)))
    if device.type == "cuda" and len(set(places)) < len(places):
        raise UserError(f"device: expected a GPU for each process, found {places}; leave device out under torchrun")


def leave_ranks() -> None:
    """The end of what :func:`join_ranks` began."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_ranks() -> None:
    """Refuse processes that would all train the same, side by side.

    Raises:
        UserError: torchrun started several, and nobody made one training of them.
    """
    number = ranks.Shard.of_this_process().count
    if number > 1 and not ranks.are_many():
        raise UserError(
            f"WORLD_SIZE: expected one process, or multi_gpu_train.yaml merged after train.yaml, found {number} "
            "processes; add it to --config_file"
        )


def rank_cases(dataset: Sequence) -> list[int]:
    """Numbers of the cases that this rank validates; one without any takes the first, for it may not stay away."""
    return ranks.Shard.of_group().take(range(len(dataset))) or [0]


def _one_line(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    has_failed()
    cause = user_error(error)
    if cause is None:
        sys.__excepthook__(kind, error, trace)
    else:
        told = printable(f"error: {cause}")
        if is_first_to_say(told):
            print(told, file=sys.stderr)
        raise SystemExit(getattr(cause, "exit_code", 1))


def default_device() -> torch.device:
    """The GPU of this process (torchrun's ``LOCAL_RANK``), or the CPU where there is none."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def default_stride(patch_size: Sequence[int], factor: Sequence[int]) -> list[int]:
    """Three quarters of the patch in whole codes: 192x192x96 for 256x256x128, an overlap of 25 %."""
    pairs = zip(_triple("patch_size", patch_size), _triple("factor", factor))
    return [max(side * 3 // 4 // f, 1) * f for side, f in pairs]


def chosen_stride(stride: Sequence[int], patch_size: Sequence[int], factor: Sequence[int]) -> list[int] | None:
    """The stride, unless it is :func:`default_stride`: that follows from the patch, also from a later one."""
    stride = list(_triple("stride", stride))
    return None if stride == default_stride(patch_size, factor) else stride


def autocasts(device: torch.device | str, precision: str) -> bool:
    """Whether an evaluator computes in bf16: MONAI's evaluator does so on CUDA only."""
    return torch.device(device).type == "cuda" and uses_bf16(device, precision)


def window_precision(
    network: VQGAN, size: Sequence[int], device: torch.device | str, precision: str, batch_size: int
) -> str:
    """:func:`trusted_precision` for the windows of MONAI's evaluator, which knows bf16 on CUDA only."""
    if precision == "bf16" and not autocasts(device, precision):
        logger.warning("precision: bf16 is for CUDA where nothing is trained; computing in float32 on %s", device)
        return "float32"
    return trusted_precision(network, size, device, precision, batch_size)


def tile_precision(
    network: VQGAN,
    tile_size: Sequence[int] | None,
    device: torch.device | str,
    precision: str,
    memory_gb: float | None = None,
) -> str:
    """:func:`trusted_precision` for exact tiles with their halo.

    Args:
        network: with its weights, on the device.
        tile_size: core of a tile in voxels; None for the default.
        device: where the network is.
        precision: of :data:`~ctpa_vqgan.precision.CODE_PRECISIONS`.
        memory_gb: the knob; a budget's tiles are as large as each volume allows, so none can be tried beforehand.

    Raises:
        UserError: bf16 fails its test, or cannot be tried.
    """
    if precision != "bf16":
        return precision
    if memory_gb is not None:
        raise UserError(
            "code_precision: bf16 needs a tile_size that can be tried first, found memory_gb; set tile_size and "
            "memory_gb=null, or code_precision=float32"
        )
    halo = [max(pair) for pair in zip(*network.halo)]
    size = [side + 2 * h * f for side, h, f in zip(tile_size or DEFAULT_TILE, halo, network.factor)]
    return trusted_precision(network, size, device, precision)


def budget_bytes(memory_gb: float | None) -> int | None:
    """The knob ``memory_gb`` in bytes."""
    return None if memory_gb is None else int(memory_gb * 1e9)


def cases_told(dataset: RandomPatchDataset | GridPatches) -> str:
    """Which cases a run trains on, for its checkpoints: how many, and a hash of names and sizes in order, not of paths.

    Of a DICOM series the number of its files counts.
    """
    digest = hashlib.sha256()
    for case in dataset.cases:
        image, size = case["image"], 0
        with contextlib.suppress(OSError):  # a file that is not there is the loader's affair
            size = os.path.getsize(image) if isinstance(image, str) else len(image)
        digest.update(f"{case['case']}\n{size}\n".encode())
    return f"{len(dataset.cases)} cases, {digest.hexdigest()[:12]}"


def first_cases(source: str, val_fraction: float, number: int, volume_size: Sequence[int] | None = None) -> list[Case]:
    """The validation cases that are reconstructed while training: the first ``number`` of them.

    Raises:
        UserError: if one has another size than ``volume_size``; now, not at the first validation.
    """
    cases = validation_cases(source, val_fraction)[:number]
    check_sizes(cases, volume_size)
    return cases


def lpips(path: str | None, device: torch.device | str) -> LPIPS | None:
    """The LPIPS term, if the user has its weights.

    Raises:
        UserError: if there is no such file.
    """
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"lpips_path: expected a file of VGG16 and LPIPS weights, found none at {path}; "
            "the docstring of ctpa_vqgan.losses.LPIPS says what it holds"
        )
    return LPIPS(path).to(device)


def start_from(network: torch.nn.Module, path: str | None) -> None:
    """Begin training from weights (fine-tuning), of network or critics; a checkpoint of the run overrides them."""
    if path is not None:
        load_weights(network, path)
        logger.info("starting from the weights in %s", path)


def report_settings(device: torch.device | str, precision: str, **settings: Any) -> dict[str, Any]:
    """What a report says about how its numbers were made; settings that are None are left out."""
    computed = "bf16 windows, float32 codes" if autocasts(device, precision) else "float32"
    settings = {name: value for name, value in settings.items() if value is not None}
    return {**facts(device), "precision": computed, **settings}


def judged_by(network: VQGAN, **settings: Any) -> dict[str, Any]:
    """All that the scores of a case depend on but its volume: an evaluation goes on from files that say the same.

    Args:
        network: with its weights.
        settings: knobs; of ``labels`` the files count too.
    """
    labels = Path(settings["labels"]) if settings.get("labels") else None
    files = sorted(labels.iterdir()) if labels and labels.is_dir() else [labels] if labels else []
    told = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.is_file()]
    return {
        "network": network_fingerprint(network),
        "measures": MEASURES,
        **settings,
        "label_files": hashlib.sha256("\n".join(told).encode()).hexdigest() if told else None,
    }


def check_evaluation(codecs: Sequence[str], **counts: int) -> None:
    """Refuse settings of an evaluation that cannot work, before any data is read.

    Raises:
        UserError: names the knob, what was expected and what was found.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(f"{name}: expected a whole number that is not negative, found {value!r}")
    if not isinstance(codecs, (list, tuple)) or not set(codecs) <= set(CODECS):
        raise UserError(f"codecs: expected some of {', '.join(CODECS)} in a list, or [], found {codecs!r}")


def run_sweep(
    device: torch.device | str, precision: str, sw_batch_size: int, data: str, weights: str, **options: Any
) -> None:
    """:func:`ctpa_vqgan.sweep.sweep`, for which bf16 passes its self-test with each size of windows."""

    @functools.cache
    def precision_of(window: tuple[int, ...]) -> str:
        return window_precision(options["network"], window, device, precision, sw_batch_size)

    settings = {**facts(device), "precision": precision, "sw_batch_size": sw_batch_size}
    settings |= {"data": data, "weights": weights}
    sweep(**options, device=device, sw_batch_size=sw_batch_size, precision_of=precision_of, settings=settings)


def check_knobs(
    device: torch.device | str,
    patch_size: Sequence[int],
    stride: Sequence[int],
    factor: Sequence[int],
    hu_window: Sequence[float],
    precision: str,
    channels: Sequence[int],
    numbers: Mapping[str, float],
    seed: int = 0,
    stitch_device: torch.device | str | None = None,
    memory_gb: float | None = None,
    volume_size: Sequence[int] | None = None,
    g_betas: Sequence[float] = (0.9, 0.99),
    **counts: int,
) -> None:
    """Refuse settings that cannot work, before any data is read.

    ``numbers`` must not be negative, those of :data:`SHARES` less than 1 too; ``memory_gb`` must be more than nothing
    and ``volume_size`` three sides if they are set; ``g_betas`` two numbers from 0 to below 1; ``counts`` are whole and
    at least 1.

    Raises:
        UserError: names the knob, what was expected and what was found.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name}: expected a whole number of at least 1, found {value!r}")
    for name, value in numbers.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
            raise UserError(
                f"{name}: expected a number that is not negative, found {value!r} (in YAML 1.0e-4, not 1e-4)"
            )
        if name in SHARES and not value < 1:
            raise UserError(f"{name}: expected at least 0 and less than 1, found {value}")
    if not numbers.get("max_grad_norm", 1):
        raise UserError("max_grad_norm: expected more than 0, found 0: nothing would be learned; 1.0e9 clips nothing")
    if not numbers.get("final_rate", 0) <= 1:
        raise UserError(f"final_rate: expected a share from 0 to 1, found {numbers['final_rate']}")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"seed: expected a whole number from 0 to {2**32 - 1}, found {seed!r}")
    real = isinstance(memory_gb, (int, float)) and not isinstance(memory_gb, bool)
    if memory_gb is not None and not (real and 0 < memory_gb < math.inf):
        raise UserError(f"memory_gb: expected null or a number of gigabytes above 0, found {memory_gb!r}")
    if precision not in PRECISIONS:
        raise UserError(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
    if not isinstance(channels, (list, tuple)) or not all(isinstance(c, int) and c > 0 for c in channels):
        raise UserError(f"channels: expected positive whole numbers such as [64, 128], found {channels!r}")
    if not isinstance(g_betas, (list, tuple)) or len(g_betas) != 2 or not all(0 <= _number(b) < 1 for b in g_betas):
        raise UserError(f"g_betas: expected two numbers from 0 to below 1 such as [0.9, 0.99], found {g_betas!r}")
    if volume_size is not None:
        _triple("volume_size", volume_size)
    factor = checked_factor(factor)
    patch_size, stride = _triple("patch_size", patch_size), _triple("stride", stride)
    for name, sides in (("patch_size", patch_size), ("stride", stride)):
        if any(side % f for side, f in zip(sides, factor)):
            nearest = [max(f, round(side / f) * f) for side, f in zip(sides, factor)]
            raise UserError(f"{name}: expected multiples of the factor {tuple(factor)}, found {sides}; try {nearest}")
    if any(step > side for step, side in zip(stride, patch_size)):
        raise UserError(
            f"stride: expected at most patch_size {patch_size}, found {stride}; set stride too, or voxels are skipped"
        )
    pair = isinstance(hu_window, (list, tuple)) and all(isinstance(v, (int, float)) for v in hu_window)
    if not pair or len(hu_window) != 2 or hu_window[0] >= hu_window[1]:
        raise UserError(f"hu_window: expected [low, high] in HU with low < high, found {hu_window!r}")
    for name, place in (("stitch_device", stitch_device or "cpu"), ("device", device)):
        try:
            kind = torch.device(place).type
        except (RuntimeError, TypeError) as error:
            raise UserError(f"{name}: expected cpu, cuda or cuda:<number>, found {place!r}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {device} was asked for, but PyTorch finds no CUDA GPU; set device to cpu")
    if kind == "cuda" and (torch.device(device).index or 0) >= (number := torch.cuda.device_count()):
        raise UserError(f"device: {device} was asked for, but there are {number} CUDA GPUs, counted from cuda:0")


def check_memory(inferer: Inferer, network: VQGAN, device: torch.device | str, precision: str) -> None:
    """Refuse a budget that windows of ``patch_size`` do not fit now, not at the first validation.

    Only :class:`VQGANInferer` has a budget; a workflow may have been given another inferer.

    Raises:
        BudgetTooSmall: names the budget that they need.
    """
    if not isinstance(inferer, VQGANInferer):
        return
    kind = torch.device(device).type
    with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=autocasts(device, precision)):
        inferer.check_memory(network)


def check_discriminators(patch_size: Sequence[int], num_layers: int, loss_weights: Mapping[str, float]) -> None:
    """Refuse patches too small for the discriminators now, not when they join.

    Raises:
        UserError: names the knob and the ways out.
    """
    if any(loss_weights.get(term) for term in GAN_TERMS) and min(patch_size) < min_side(num_layers):
        raise UserError(
            f"patch_size: the discriminators need sides of at least {min_side(num_layers)} voxels, found {patch_size}; "
            f"enlarge the patch, lower discriminator_layers, or set the loss_weights of {' and '.join(GAN_TERMS)} to 0"
        )


def _number(value: Any) -> float:
    """NaN for what is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _triple(name: str, value: Any) -> list[int]:
    whole = isinstance(value, (list, tuple)) and all(isinstance(v, int) and v > 0 for v in value)
    if not whole or len(value) != 3:
        raise UserError(f"{name}: expected three positive whole numbers such as [256, 256, 128], found {value!r}")
    return list(value)
