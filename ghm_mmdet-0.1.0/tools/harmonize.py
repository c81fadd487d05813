"""`ghm-mmdet harmonize`, for a clone and for `mim run ghm_mmdet harmonize`."""

import sys

try:
    from ghm_mmdet.cli import main
except ModuleNotFoundError as error:
    sys.exit(f'{error}: run `make env`, then .venv/bin/python {sys.argv[0]}')

if __name__ == '__main__':
    main(['harmonize', *sys.argv[1:]])
