"""What two ranks do in test_several_ranks.py: run by torchrun, and imported to do the same with one.

python -m torch.distributed.run --standalone --nproc_per_node=2 tests/ranks_at_work.py FOLDER
"""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from small_training import Patches, make_discriminator, make_network, make_trainer, on_iteration, state_of

from ctpa_vqgan import bundle, ranks
from ctpa_vqgan.data.unreadable import Unreadable, to_text
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import CaseScores, Checkpoints, Quarantine
from ctpa_vqgan.networks import VQGAN, PatchDiscriminators, ResidualQuantizer, VectorQuantizer
from ctpa_vqgan.trainer import weight_ema

STEPS = 20
SIZES = [4, 4, 3, 4, 1] * (STEPS // 5)  # patches of each step; of the last one of five all are rank 0's
BAD_STEP, BAD_PATCH = 6, 2  # the patch is rank 1's


def train(dtype=torch.float32, quantizer=None, bad=False, memory_runs_out=False):
    """Twenty steps with everything that a step can have, on this rank's part of each batch."""
    network, discriminator = make_network(), make_discriminator()
    if quantizer is not None:
        network = VQGAN(channels=(4, 8), quantizer=quantizer)
    if dtype == torch.float64:
        network, discriminator = network.double(), discriminator.double()
    patches = iter(Patches(sum(SIZES), dtype).patches)
    shard, batches = ranks.Shard.of_group(), []
    for step, size in enumerate(SIZES):
        images = torch.stack([next(patches) for _ in range(size)])
        if bad and step == BAD_STEP:
            images[BAD_PATCH, 0, 0, 0, 0] = torch.nan
        part = shard.part(range(size))
        batches.append({"image": images[part.start : part.stop], "case": [f"{step}-{number}" for number in part]})
    ema = weight_ema(network)
    options = {
        "adversarial_start": 2,
        "ema": ema,
        "epoch_length": STEPS,
        "micro_batch_size": 2 if memory_runs_out else 1,
    }
    trainer = make_trainer(network, discriminator=discriminator, **options)
    trainer.data_loader = batches
    if memory_runs_out:
        run_out_of_memory(trainer)
    restarts = count_restarts(network.quantizer)
    trainer.run()
    return {
        "states": state_of(network, discriminator, ema),
        "trainer": trainer.state_dict(),
        "micro_batch_size": trainer.micro_batch_size,
        "restarts": len(restarts),
    }


def count_restarts(quantizer):
    """A list that grows with each step in which a dead code found a new place."""
    found = []
    for book in [module for module in quantizer.modules() if isinstance(module, VectorQuantizer)]:

        def counted(book=book, restart=book._restart_dead_codes):
            before = book.embedding.clone()
            restart()
            if not torch.equal(before, book.embedding):
                found.append(int(book.num_steps))

        book._restart_dead_codes = counted
    return found


def run_out_of_memory(trainer):
    """On the last rank, in the first pass of the third step."""
    shard, left = ranks.Shard.of_group(), [1]

    def fail(*ignored):
        if trainer.state.iteration == 3 and shard.index == shard.count - 1 and left:
            left.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.network.decoder.register_forward_pre_hook(fail)


def validate(number):
    """Metrics over so many volumes, as a validation while training has them."""
    torch.manual_seed(0)
    network = VQGAN(channels=(4, 8), num_embeddings=16, embedding_dim=4)
    volumes = [(torch.rand(1, 24, 20, 16, generator=torch.Generator().manual_seed(n)) * 900) for n in range(number)]
    cases = [{"hu": v, "image": v.clone() / 1000, "case": f"case_{n}"} for n, v in enumerate(volumes)]
    dataset = Dataset(cases)
    scores = CaseScores(network, (-1000.0, 1000.0))
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(dataset, sampler=bundle.rank_cases(dataset)),
        network=network,
        postprocessing=lambda output: output | {"pred": output["pred"] * 1000},
        key_val_metric={"psnr": scores},
    )
    evaluator.run()
    metrics = {name: value for name, value in evaluator.state.metrics.items() if name != "seconds"}
    return {"metrics": metrics, "cases": [row["case"] for row in scores.rows]}


def quarantine():
    """What each rank knows of a file that one of them could not read."""
    cases = [{"image": f"{n}.nii", "case": str(n)} for n in range(4)]
    handler = Quarantine(SimpleNamespace(cases=cases, unreadable={}), max_share=0.5)
    mine = ranks.Shard.of_group()
    text = to_text([Unreadable("3.nii", "unreadable", "3.nii: cut off")]) if mine.index == mine.count - 1 else ""
    handler._look(SimpleNamespace(state=SimpleNamespace(batch={"unreadable": [text]}, iteration=1)))
    return list(handler.cases)


def differing_knobs(folder):
    """What a run says whose ranks were begun with different words."""
    checkpoints = Checkpoints(folder / "none", {}, knobs={"seed": ranks.Shard.of_group().index})
    try:
        checkpoints.resume(make_trainer())
    except UserError as error:
        return str(error)
    finally:
        checkpoints._end(None)


def error_of_rank_0():
    """How every rank learns of it."""

    def fail():
        raise UserError("runs: another process works there")

    try:
        ranks.from_main(fail)
    except UserError as error:
        return str(error)


def large_networks():
    """Large enough that what their training sends can be told from the rest."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(1024, 8, init="random", reservoir_size=8192)
    return VQGAN(channels=(32, 64), quantizer=quantizer), PatchDiscriminators(channels=16, num_layers=1)


def traffic(steps=4):
    """Bytes over the loopback interface in a step of the large networks; the least, as others may use it too."""
    network, discriminator = large_networks()
    part = ranks.Shard.of_group().part(range(4))
    trainer = make_trainer(network, discriminator=discriminator, epoch_length=steps + 2)
    batches = Patches(4 * (steps + 2)).patches.split(4)
    trainer.data_loader = [{"image": batch[part.start : part.stop]} for batch in batches]
    counts = []

    def count():
        ranks.gather_numbers(0)  # nothing is on its way then
        counts.append(sent_over_loopback())
        ranks.gather_numbers(0)

    on_iteration(trainer, count)
    trainer.run()
    return min(after - before for before, after in itertools.pairwise(counts[1:]))


def sent_over_loopback():
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.split(":")[1].split()[8])


def everything(folder):
    """By name, what to compare; the same calls with one rank and with two."""
    return {
        "float64": train(torch.float64),
        "float32": train(),
        "residual": train(quantizer=ResidualQuantizer(16, 4, init_steps=3, reservoir_size=256, patches_in_reservoir=8)),
        "bad number": train(bad=True),
        "memory": train(memory_runs_out=True),
        "three cases": validate(3),
        "one case": validate(1),
        "quarantine": quarantine(),
        "differing": differing_knobs(folder),
        "error": error_of_rank_0(),
    }


if __name__ == "__main__":
    bundle.begin(seed=0)
    bundle.join_ranks("cpu", timeout=300)
    found = everything(Path(sys.argv[1]))
    found["one line"] = sys.excepthook is bundle._one_line
    found["traffic"] = traffic()
    torch.save(found, Path(sys.argv[1]) / f"rank_{ranks.Shard.of_group().index}.pt")
    bundle.leave_ranks()
