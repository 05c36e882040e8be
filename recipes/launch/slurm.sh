#!/bin/bash
# A recipe on several nodes under Slurm, from a folder that all of them share:
#   sbatch --nodes 4 recipes/launch/slurm.sh recipes/dino_pretrain.py --config recipes/configs/… --data.pool /data/LUPerson
# At the time limit, and where a job with more rights takes the nodes, the run writes a checkpoint and the job goes back
# to the queue; begun again it goes on from there. To go on with other nodes: cancel it, and give the command again.
#SBATCH --job-name=transreid_ssl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1     # one launcher a node, which starts a process for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96      # for 8 loading processes a GPU (--run.num_workers), and some
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120     # two minutes before the limit, to this script
#SBATCH --requeue               # after a node has failed, or was taken
#SBATCH --open-mode=append      # the log goes on, too
set -euo pipefail

# srun passes the signal on to the launchers, and these to every process, which then have 30 seconds.
stopped=no
run=
trap 'stopped=yes; kill -TERM $run || true' TERM
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \
    --rdzv-endpoint "$first:$((20000 + SLURM_JOB_ID % 10000))" "$@" &
run=$!
[ "$stopped" = no ] || kill -TERM "$run"
code=0
wait "$run" || code=$?
if [ "$stopped" = yes ]; then
    wait "$run" || true         # the signal ended the first wait, not the run
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
