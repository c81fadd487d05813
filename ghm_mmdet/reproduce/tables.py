"""The paper's Tables 1 to 7, from `tables.yml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..data_files import read_yaml

#: Column of a table to the name of MMDetection's metric, which is a fraction.
METRICS = {f'AP{at}': f'bbox_mAP_{at}' for at in (50, 60, 70, 75, 80, 90, *'sml')}
METRICS['AP'] = 'bbox_mAP'
#: The column of Table 2 that is a time; the paper's is from GTX 1080 Ti.
SECONDS = 's/iteration'


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
    made = []
    for line in rows.splitlines():
        method, model, numbers = (cell.strip() for cell in line.split('|'))
        paper = tuple(None if number == '-' else float(number) for number in numbers.split())
        made.append(Row(method, f'{model}_8xb2-14e_coco', paper))
    return Table(number, title, tuple(columns.split()), tuple(made), on_test_dev)


TABLES = tuple(_table(**table) for table in read_yaml(Path(__file__).with_name('tables.yml')))


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
