"""Put GHM-C and GHM-R in the place of the losses of an MMDetection config.

Writes a short config that inherits from the original, and prints a line for each loss found:
replaced or kept, and why.

Examples:
    python tools/harmonize.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --dry-run
    python tools/harmonize.py configs/mine.py --out configs/mine_ghm.py
    python tools/harmonize.py configs/mine.py --out configs/small.py --formula floored --warmup 500
    python tools/harmonize.py configs/mine.py --out configs/mine_ghm.py --no-reg --head RPNHead
"""

import sys
from argparse import ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from pathlib import Path

from ghm_mmdet.formulas import FORMULAS
from ghm_mmdet.swap import harmonized_text


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add, yes_or_no = parser.add_argument, BooleanOptionalAction
    add('config', help='path, or name as mmdet::retinanet/...')
    add('--out', type=Path, help='where to write the config; default: print it')
    add('--dry-run', action='store_true', help='print, write nothing')
    add('--cls', action=yes_or_no, default=True, help='classification losses')
    add('--reg', action=yes_or_no, default=True, help='regression losses')
    heads = "only heads of this type or place, as RPNHead or 'roi_head.*'; default: all"
    add('--head', metavar='PATTERN', help=heads)
    add('--bins', type=int, help='M; default: 30 for GHM-C, 10 for GHM-R')
    add('--momentum', type=float, help='alpha; default: 0.75 for GHM-C, 0.7 for GHM-R')
    formula = 'floored: for small data sets; default: %(default)s'
    add('--formula', choices=FORMULAS, default='official', help=formula)
    add('--batch-density', action='store_true', help='density over all FPN levels (RetinaHead)')
    add('--warmup', type=int, metavar='ITERS', help='train with the losses replaced at first')
    options = vars(parser.parse_args())
    config, out, dry_run = (options.pop(name) for name in ('config', 'out', 'dry_run'))
    try:
        plan, text = harmonized_text(config, out or Path('harmonized.py'), **options)
    except (ValueError, FileNotFoundError, ModuleNotFoundError, ImportError) as error:
        sys.exit(f'{config}: {error}')
    print(plan if out and not dry_run else text)
    if out and not dry_run:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
        print(f'written to {out}')


if __name__ == '__main__':
    main()
