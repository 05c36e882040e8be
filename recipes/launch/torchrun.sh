#!/bin/bash
# A recipe on all GPUs of one node, or on as many as GPUS says:
#   recipes/launch/torchrun.sh recipes/dino_pretrain.py --config recipes/configs/… --data.pool /data/LUPerson
#   GPUS=4 recipes/launch/torchrun.sh recipes/…
# Ctrl-C and SIGTERM end the run after its step, with a checkpoint; the same command goes on, with any number of GPUs
# that divides --run.batch_size.
set -euo pipefail
exec torchrun --standalone --nproc-per-node "${GPUS:-gpu}" "$@"
