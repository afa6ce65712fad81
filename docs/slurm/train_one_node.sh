#!/bin/bash
# Train on all GPUs that a job has on one node of a SLURM cluster, over as many jobs' time as it takes:
#   sbatch docs/slurm/train_one_node.sh DATA OUTPUT [more words for `python -m ctpa_vqgan train`]
# What happens, and how to try it without a cluster: docs/slurm.md
#SBATCH --job-name=ctpa_vqgan
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
# The knob batch_size (4 if not set) counts the patches of all GPUs: it has to be their number at least.
#SBATCH --gres=gpu:4
# A GPU has one process that computes and num_workers (4 if not set) that load.
#SBATCH --cpus-per-task=20
#SBATCH --mem=128G
#SBATCH --time=24:00:00
# 300 s before the time limit SLURM sends SIGUSR1 to this script and (B:) to nobody else.
#SBATCH --signal=B:USR1@300
# The job may be put back, by this script, and by SLURM when another job takes its place or its node fails.
#SBATCH --requeue
# Each turn of the job writes on in the same log.
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -euo pipefail
if (($# < 2)); then
    echo "usage: sbatch docs/slurm/train_one_node.sh DATA OUTPUT [more words for train]" >&2
    exit 2
fi
data=$1 output=$2 job=$SLURM_JOB_ID
shift 2

progress() { # changes with each checkpoint that is saved
    { find "$output/checkpoints" -name 'checkpoint_*.pt' 2>/dev/null || true; } | sort
}

# ---- one turn of the job: the same lines in every script that puts itself back ---------------------------------------
# Run a command. When SIGUSR1 comes, let it end in good order; if it got further in this turn, put the job back.
turn() {
    local before log end status asked=""
    before=$(progress)
    # One SIGTERM, to the job's steps and not to this script. Sent to srun instead, it would kill what srun runs.
    trap 'trap "" USR1; asked=yes; scancel --signal=TERM "$job" || true' USR1
    # The command's code comes by a pipe: bash can lose it where a signal ends `wait` and the command ends at that time.
    exec {log}>&1
    exec {end}< <(
        code=0
        "$@" >&"$log" || code=$?
        echo "$code"
    )
    wait "$!" || true
    read -r status <&"$end" || status=1
    if [[ ! $asked || $status == 0 ]]; then
        exit "$status"
    elif [[ $(progress) == "$before" ]]; then
        echo "nothing new was saved in this turn: job $job is not put back; the same command goes on" >&2
    elif scontrol requeue "$job"; then
        echo "job $job is put back into the queue" >&2
        exit 0
    else
        echo "scontrol refused: job $job is not put back; the same command goes on" >&2
    fi
    exit "$status"
}
# ----------------------------------------------------------------------------------------------------------------------

# So long may the ranks take to finish a step and save before torchrun kills them; less than --signal gives them.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240

# The same command each time: with checkpoints in OUTPUT it goes on from the last one. Since SLURM 22.05 a step has one
# core if not told.
turn srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    torchrun --standalone --nproc_per_node="${SLURM_GPUS_ON_NODE:?the job has no GPU: ask for some with --gres=gpu:N}" \
    -m ctpa_vqgan train --data "$data" --output "$output" "$@"
