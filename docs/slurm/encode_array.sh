#!/bin/bash
# Share the cases of encode, decode, inference, evaluate or prepare among the tasks of a SLURM array:
#   sbatch docs/slurm/encode_array.sh encode DATA OUTPUT [more words for `python -m ctpa_vqgan encode`]
# What happens, and how to try it without a cluster: docs/slurm.md
#SBATCH --job-name=ctpa_vqgan
# So many parts; 1-16%4 would run four at a time.
#SBATCH --array=1-16
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=6
#SBATCH --mem=32G
#SBATCH --time=04:00:00
# 120 s before the time limit SLURM sends SIGUSR1 to this script and (B:) to nobody else.
#SBATCH --signal=B:USR1@120
# The task may be put back, by this script, and by SLURM when another job takes its place or its node fails.
#SBATCH --requeue
# Each turn of the task writes on in the same log.
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log

set -euo pipefail
usage() {
    echo "usage: sbatch docs/slurm/encode_array.sh COMMAND DATA OUTPUT [more words for COMMAND]," \
        "COMMAND being encode, decode, inference, evaluate or prepare" >&2
    exit 2
}
(($# >= 3)) || usage
command=$1 data=$2 output=$3
shift 3
case $command in
encode | decode | inference | evaluate) input=(--data "$data") ;;
prepare) input=("$data") ;;
*) usage ;;
esac

# To do some parts again, say how many there are: SHARDS=16 sbatch --array=3,7 docs/slurm/encode_array.sh ...
parts=${SHARDS:-$SLURM_ARRAY_TASK_COUNT}
if ((SLURM_ARRAY_TASK_MIN < 1 || SLURM_ARRAY_TASK_MAX > parts)); then
    echo "--array: expected 1-N, or some of 1-N with SHARDS=N in the environment, found tasks" \
        "$SLURM_ARRAY_TASK_MIN to $SLURM_ARRAY_TASK_MAX of $parts" >&2
    exit 2
fi
job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

progress() { # changes with each file that is done, of other parts too; half files and locks have names of their own
    {
        find "$output" \( -name .work -o -name .shards \) -prune -o \
            -type f ! -name '.*' ! -name '*.lock' -print 2>/dev/null || true
    } | sort
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

# The same command each time: cases that are done stay. Since SLURM 22.05 a step has one core if not told.
turn srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    python -m ctpa_vqgan "$command" "${input[@]}" --output "$output" --shard "$SLURM_ARRAY_TASK_ID/$parts" "$@"
