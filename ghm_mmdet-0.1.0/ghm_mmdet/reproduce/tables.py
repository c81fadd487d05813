"""The paper's Tables 1 to 7, from `tables.yml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..data_files import read_yaml
from .configs import config_path

#: The column of Table 2 that is a time; the paper's is from GTX 1080 Ti.
SECONDS = 's/iteration'


@dataclass(frozen=True)
class Row:
    """A row of a table: a number for each column, AP in percent; None where the paper has none."""

    method: str
    run: str  # name of the config in `configs/ghm/`, without `.py`
    paper: tuple[float | None, ...]
    config: Path | None = None  # of a row of one's own

    @property
    def path(self) -> Path:
        """Of the config."""
        return self.config or config_path(f'configs/ghm/{self.run}.py')


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


def tables(
    numbers: list[int] | None = None, added: Mapping[str, Path] | None = None
) -> list[Table]:
    """The tables of these numbers, all without.

    Args:
        numbers: 1 to 7. Default: None, all.
        added: Rows of one's own for each of them: method to config. Default: None.

    Raises:
        ValueError: A number that is not of a table, or a config named as one of the tables'.
    """
    known = {table.number: table for table in TABLES}
    for number in numbers or ():
        if number not in known:
            raise ValueError(f'table must be one of {", ".join(map(str, known))}, got {number}')
    names = [row.run for table in TABLES for row in table.rows]
    for path in (added := added or {}).values():
        if path.stem in names:
            raise ValueError(f'a config to add must have a name of its own, got {path.name}')
        names.append(path.stem)
    chosen = (known[number] for number in numbers or known)
    return [
        replace(table, rows=table.rows + tuple(_own_row(*row, table) for row in added.items()))
        for table in chosen
    ]


def _own_row(method: str, config: Path, table: Table) -> Row:
    return Row(method, config.stem, (None,) * len(table.columns), config)
