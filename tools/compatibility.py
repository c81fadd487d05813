"""Harmonize every config of the installed MMDetection, and write docs/compatibility.md.

Examples:
    python tools/compatibility.py run --json work_dirs/compatibility-onedl.json
    python tools/compatibility.py report work_dirs/compatibility-o*.json --out docs/compatibility.md
"""

import argparse
import json
from pathlib import Path

from ghm_mmdet.analysis.compatibility import document, run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest='action', required=True)
    doing = actions.add_parser('run', help='scan, take training steps, build')
    doing.add_argument('--json', type=Path, default=Path('work_dirs/compatibility-onedl.json'))
    doing.add_argument('--no-builds', action='store_true', help='do not build the models')
    telling = actions.add_parser('report', help='write the document')
    telling.add_argument(
        'json', type=Path, nargs='+', help='results of `run`; of one MMDetection each'
    )
    telling.add_argument('--out', type=Path, help='default: print it')
    args = parser.parse_args()
    if args.action == 'run':
        run(args.json, builds=not args.no_builds, report=lambda line: print(line, flush=True))
        return
    text = document([json.loads(path.read_text()) for path in args.json])
    if args.out:
        args.out.write_text(text)
    else:
        print(text)


if __name__ == '__main__':
    main()
