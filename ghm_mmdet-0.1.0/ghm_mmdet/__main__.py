"""`python -m ghm_mmdet` is `ghm-mmdet`."""

from .cli import main

if __name__ == '__main__':
    main()
