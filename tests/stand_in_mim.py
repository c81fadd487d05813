"""Instead of MIM (`python -m mim`): does to a folder what a training of MMEngine does to it.

`STAND_IN` in the environment is a JSON object:
    iterations, every: of the training, and between two checkpoints, each with a validation.
    seconds: of an iteration. Default: 0.
    notes: A file that receives a line when a training begins, ends, or meets another one.
    ap: By arm, in percent, at the last iteration. Default: 10 for each.
    nan: By arm, the first iteration with a loss that is NaN.
    fails: By arm, the error that ends it after the first checkpoint.
"""

import fcntl
import json
import os
import sys
import time
from pathlib import Path

plan = json.loads(os.environ['STAND_IN'])
folder = Path(sys.argv[sys.argv.index('--work-dir') + 1])
arm, _, seed = folder.name.rpartition('-seed')
pointer = folder / 'last_checkpoint'
last = plan['iterations']


def note(word: str) -> None:
    with open(plan['notes'], 'a', encoding='utf-8') as notes:
        notes.write(f'{word} {folder.name}\n')


def log(**record: object) -> None:
    with open(scalars, 'a', encoding='utf-8') as file:
        file.write(json.dumps(record) + '\n')


folder.mkdir(parents=True, exist_ok=True)
busy = open(folder / 'busy', 'w', encoding='utf-8')  # noqa: SIM115
try:
    fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    note('meets')
    sys.exit('another training writes to this folder')
note('begin')
start = 0
if '--resume' in sys.argv and pointer.exists():
    start = int(Path(pointer.read_text(encoding='utf-8')).stem.rpartition('_')[2])
scalars = folder / f'{time.time_ns()}/vis_data/scalars.json'
scalars.parent.mkdir(parents=True)
for iteration in range(start + 1, last + 1):
    time.sleep(plan.get('seconds', 0))
    is_nan = iteration >= plan.get('nan', {}).get(arm, last + 1)
    loss = float('nan') if is_nan else 1 / iteration
    log(loss=loss, grad_norm=1000 / iteration, time=0.5, step=iteration)
    left = time.strftime('%H:%M:%S', time.gmtime((last - iteration) / 2))
    print(f'Iter(train) [{iteration:3}/{last}]  eta: {left}  time: 0.5000  loss: 1.0', flush=True)
    if iteration % plan['every'] == 0:
        checkpoint = folder / f'iter_{iteration}.pth'
        checkpoint.touch()
        pointer.write_text(str(checkpoint), encoding='utf-8')
        if error := plan.get('fails', {}).get(arm):
            sys.exit(f'Traceback (most recent call last):\n{error}')
        time.sleep(plan.get('seconds', 0))
        ap = plan.get('ap', {}).get(arm, 10) * iteration / last + int(seed)
        metrics = {'bbox_mAP': ap / 100, 'bbox_mAP_50': ap / 50, 'king_precision': ap / 200}
        print(f'Iter(val) [8/8]    coco/bbox_mAP: {ap / 100:.4f}', flush=True)
        log(**{f'coco/{k}': v for k, v in metrics.items()}, time=0.1, step=iteration)
note('end')
