"""Record the gradient norms of a finished checkpoint on batches of its training data.

Example:
    python tools/record_gradient_density.py \\
        configs/demo/retinanet_r18_fpn_ghmc-ghmr_demo.py \\
        work_dirs/demo/retinanet_r18_fpn_ghmc-ghmr_demo/epoch_10.pth \\
        --out work_dirs/demo/record.npz --batches 100
"""

import argparse

from mmengine.config import Config, DictAction

from ghm_mmdet.visualization.checkpoint import record_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', required=True, help='the .npz to write')
    parser.add_argument('--batches', type=int, default=50, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--device', default='cpu', help='default: %(default)s')
    parser.add_argument('--bins', type=int, default=600, help='in [0, 1]; default: %(default)s')
    parser.add_argument(
        '--mu',
        type=float,
        default=0.02,
        help='of gr, where the loss has none; default: %(default)s',
    )
    for loss in ('loss_cls', 'loss_bbox'):
        parser.add_argument(
            f'--{loss.replace("_", "-")}',
            type=lambda path: None if path == 'none' else path,
            default=f'bbox_head.{loss}',
            help='its path in the detector, or none; default: %(default)s',
        )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args()
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    record = record_checkpoint(
        config, args.checkpoint, args.batches, args.seed, args.device, bins=args.bins,
        mu=args.mu, loss_cls=args.loss_cls, loss_bbox=args.loss_bbox,
    )  # fmt: skip
    record.save(args.out)
    print(
        f'{record.histogram("cls")[0].sum():,.0f} logits and '
        f'{record.histogram("reg")[0].sum():,.0f} offsets of {record.iteration[-1]} batches '
        f'in {args.out}'
    )


if __name__ == '__main__':
    main()
