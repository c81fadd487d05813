"""The paper's Tables 1 to 7: each row's numbers, as printed, and the config that repeats it.

Table 3's rows of other detectors are left out: no config here is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Column of a table to the name of MMDetection's metric, which is a fraction.
METRICS = {'AP': 'bbox_mAP'}
METRICS.update({f'AP{percent}': f'bbox_mAP_{percent}' for percent in (50, 60, 70, 75, 80, 90)})
METRICS.update({f'AP{size}': f'bbox_mAP_{size}' for size in 'sml'})
#: The column of Table 2 that is a time; the paper's is from GTX 1080 Ti.
SECONDS = 's/iteration'
#: For which the configs' batch of 16 is, 2 images on each.
GPUS = 8
COCO_COLUMNS = 'AP AP50 AP75 APs APm APl'


@dataclass(frozen=True)
class Row:
    """A row of a table: a number for each column, AP in percent; None where the paper has none."""

    method: str
    run: str  # name of the config in `configs/ghm/`, without `.py`
    paper: tuple[float | None, ...]


@dataclass(frozen=True)
class Table:
    """A table of the paper; `on_test_dev` if it is not on minival (= val2017)."""

    number: int
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    on_test_dev: bool = False


def _table(number: int, title: str, columns: str, rows: str, on_test_dev: bool = False) -> Table:
    """A table from lines `method | model | a number for each column, or - for none`."""
    lines = [[cell.strip() for cell in line.split('|')] for line in rows.strip().splitlines()]
    made = (
        Row(
            method,
            f'{model}_8xb2-14e_coco',
            tuple(None if number == '-' else float(number) for number in numbers.split()),
        )
        for method, model, numbers in lines
    )
    return Table(number, title, tuple(columns.split()), tuple(made), on_test_dev)


TABLES = (
    _table(1, 'number of unit regions of GHM-C, without moving average', COCO_COLUMNS, """
    M = 5  | retinanet_r50_fpn_ghmc-m05-noema | 33.4 51.7 35.6 18.6 36.8 45.7
    M = 10 | retinanet_r50_fpn_ghmc-m10-noema | 34.6 53.9 36.5 19.5 37.1 46.1
    M = 20 | retinanet_r50_fpn_ghmc-m20-noema | 35.2 54.4 36.9 19.4 38.4 46.3
    M = 30 | retinanet_r50_fpn_ghmc-m30-noema | 35.8 55.5 38.1 19.6 39.6 46.7
    M = 40 | retinanet_r50_fpn_ghmc-m40-noema | 35.4 54.8 36.3 19.5 38.5 46.3
    """),
    _table(2, 'exact density, unit regions, and their time', f'AP {SECONDS}', """
    standard CE    | retinanet_r50_fpn_ce         | 28.6  0.566
    GHM-C Standard | retinanet_r50_fpn_ghmc-exact | 35.9 13.675
    GHM-C RU       | retinanet_r50_fpn_ghmc       | 35.8  0.824
    """),
    _table(3, 'main results', COCO_COLUMNS, """
    Focal Loss, ResNet-101     | retinanet_r101_fpn_fl              | 39.1 59.1 42.3 21.8 42.7 50.2
    Focal Loss, ResNeXt-101    | retinanet_x101-32x8d_fpn_fl        | 40.8 61.1 44.1 24.1 44.2 51.2
    GHM-C + GHM-R, ResNet-101  | retinanet_r101_fpn_ghmc-ghmr       | 39.9 60.8 42.5 20.3 43.6 54.1
    GHM-C + GHM-R, ResNeXt-101 | retinanet_x101-32x8d_fpn_ghmc-ghmr | 41.6 62.8 44.2 22.3 45.1 55.3
    """, on_test_dev=True),
    _table(4, 'losses for classification', COCO_COLUMNS, """
    CE    | retinanet_r50_fpn_ce    | 28.6 43.3 30.7 11.4 30.7 40.7
    OHEM  | retinanet_r101_fpn_ohem | 31.1 47.2 33.2    -    -    -
    FL    | retinanet_r50_fpn_fl    | 35.6 55.6 38.2 19.1 39.2 46.3
    GHM-C | retinanet_r50_fpn_ghmc  | 35.8 55.5 38.1 19.6 39.6 46.7
    """),
    _table(5, 'losses for regression', COCO_COLUMNS, """
    SL1   | retinanet_r50_fpn_ghmc      | 35.8 55.5 38.1 19.6 39.6 46.7
    ASL1  | retinanet_r50_fpn_ghmc-asl1 | 35.7 55.0 38.1 19.7 39.7 45.9
    GHM-R | retinanet_r50_fpn_ghmc-ghmr | 36.4 54.6 38.7 20.5 40.6 47.8
    """),
    _table(6, 'AP at IoU thresholds', 'AP AP50 AP60 AP70 AP80 AP90', """
    SL1   | retinanet_r50_fpn_ghmc      | 35.8 55.5 51.2 43.4 31.4 11.9
    ASL1  | retinanet_r50_fpn_ghmc-asl1 | 35.7 55.0 51.1 43.5 31.5 12.1
    GHM-R | retinanet_r50_fpn_ghmc-ghmr | 36.4 54.6 51.4 44.0 32.2 13.1
    """),
    _table(7, 'Faster R-CNN', COCO_COLUMNS, """
    SL1   | faster-rcnn_r50_fpn_sl1  | 36.4 58.7 38.8 21.1 39.6 47.0
    GHM-R | faster-rcnn_r50_fpn_ghmr | 37.4 58.9 39.9 21.8 40.8 48.8
    """),
)  # fmt: skip


def tables(numbers: list[int] | None = None) -> list[Table]:
    """The tables of these numbers, all without.

    Raises:
        ValueError: A number that is not of a table.
    """
    known = {table.number: table for table in TABLES}
    for number in numbers or ():
        if number not in known:
            raise ValueError(f'table must be one of {", ".join(map(str, known))}, got {number}')
    return [known[number] for number in numbers or known]
