"""Record the gradient norms of a finished checkpoint on batches of its training data.

Example:
    python tools/record_gradient_density.py \\
        configs/demo/retinanet_r18_fpn_ghmc-ghmr_demo.py \\
        work_dirs/demo/retinanet_r18_fpn_ghmc-ghmr_demo/epoch_10.pth \\
        --out work_dirs/demo/record.npz --batches 100
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

from mmengine.config import Config, DictAction

from ghm_mmdet.visualization.checkpoint import record_checkpoint


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('config')
    add('checkpoint')
    add('--out', required=True, help='the .npz to write')
    add('--batches', type=int, default=50, help='default: %(default)s')
    add('--seed', type=int, default=0, help='default: %(default)s')
    add('--device', default='cpu', help='default: %(default)s')
    add('--bins', type=int, default=600, help='in [0, 1]; default: %(default)s')
    without_own = 'of gr, where the loss has none; default: %(default)s'
    add('--mu', type=float, default=0.02, help=without_own)
    path = dict(
        type=lambda path: None if path == 'none' else path,
        help='its path in the detector, or none; default: %(default)s',
    )
    add('--loss-cls', default='bbox_head.loss_cls', **path)
    add('--loss-bbox', default='bbox_head.loss_bbox', **path)
    add('--cfg-options', nargs='+', action=DictAction, default={})
    args = vars(parser.parse_args())
    out, options = args.pop('out'), args.pop('cfg_options')
    config = Config.fromfile(args.pop('config'))
    config.merge_from_dict(options)
    record = record_checkpoint(config, **args)
    record.save(out)
    print(
        f'{record.histogram("cls")[0].sum():,.0f} logits and '
        f'{record.histogram("reg")[0].sum():,.0f} offsets of {record.iteration[-1]} batches '
        f'in {out}'
    )


if __name__ == '__main__':
    main()
