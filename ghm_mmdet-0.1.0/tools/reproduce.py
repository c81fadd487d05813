"""`ghm-mmdet reproduce`, for a clone and for `mim run ghm_mmdet reproduce`."""

import sys

try:
    from ghm_mmdet.cli import main
except ModuleNotFoundError as error:
    sys.exit(f'{error}: run `make env`, then .venv/bin/python {sys.argv[0]}')

if __name__ == '__main__':
    main(['reproduce', *sys.argv[1:]])
