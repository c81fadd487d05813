#!/usr/bin/env bash
# Train on several GPUs, on one machine or more, with torchrun over MMDetection's train.py.
#
#   tools/dist_train.sh CONFIG GPUS [arguments of train.py]
#
# GPUS are those of this machine. Several machines: the same line on each, with NNODES, its own
# NODE_RANK (0, 1, ...), and MASTER_ADDR and PORT of the machine with rank 0.
#
# Example:
#   tools/dist_train.sh configs/ghm/retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py 8 --resume
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
case ${1:-} in -h | --help) usage; exit ;; esac
if [ $# -lt 2 ]; then
    usage >&2
    exit 2
fi
CONFIG=${1:?CONFIG is empty}
GPUS=$2
PYTHON=${PYTHON:-python}
TRAIN=$("$PYTHON" -c 'import mmdet, os; print(os.path.join(mmdet.__path__[0], ".mim/tools/train.py"))' | tail -n 1)

exec "$PYTHON" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$TRAIN" "$CONFIG" --launcher pytorch "${@:3}"
