#!/usr/bin/env bash
# Train under Slurm with MMDetection's train.py, one task for each GPU.
#
#   [GPUS=16] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS="..."] \
#       tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
#
# GPUS are those of all nodes; Slurm takes GPUS / GPUS_PER_NODE nodes.
#
# Example:
#   GPUS=16 tools/slurm_train.sh gpu ghm \
#       configs/ghm/retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py work_dirs/ghm
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
case ${1:-} in -h | --help) usage; exit ;; esac
if [ $# -lt 4 ]; then
    usage >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=${3:?CONFIG is empty}
WORK_DIR=${4:?WORK_DIR is empty}
# A shell leaves the ~ of a quoted word as it is, and train.py makes a folder of that name.
WORK_DIR=${WORK_DIR/#\~\//$HOME/}
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
PYTHON=${PYTHON:-python}
TRAIN=$("$PYTHON" -c 'import mmdet, os; print(os.path.join(mmdet.__path__[0], ".mim/tools/train.py"))' | tail -n 1)

# SRUN_ARGS is a list of words.
# shellcheck disable=SC2086
exec srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "$PYTHON" -u "$TRAIN" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm "${@:5}"
