#!/bin/bash
# Train on one GPU of a SLURM cluster, over as many jobs' time as it takes:
#   sbatch docs/slurm/train_one_gpu.sh DATA OUTPUT [more words for `python -m ctpa_vqgan train`]
# What happens, and how to try it without a cluster: docs/slurm.md
#SBATCH --job-name=ctpa_vqgan
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=6
#SBATCH --mem=32G
#SBATCH --time=24:00:00
# 300 s before the time limit SLURM sends SIGUSR1 to what srun started: the run finishes its step, saves, and asks
# `scontrol requeue` for a new turn. Give it more than a step and a checkpoint take.
#SBATCH --signal=USR1@300
# The job may be put back, by itself as above, and by SLURM when another job takes its place or its node fails.
#SBATCH --requeue
# Each turn of the job writes on in the same log.
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -euo pipefail
if (($# < 2)); then
    echo "usage: sbatch docs/slurm/train_one_gpu.sh DATA OUTPUT [more words for train]" >&2
    exit 2
fi

# The same command each time: with checkpoints in OUTPUT it goes on from the last one. Without srun, SLURM would send
# the signal to nobody: it goes to steps, not to this script. Since SLURM 22.05 a step has one core if not told.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    python -m ctpa_vqgan train --data "$1" --output "$2" "${@:3}"
