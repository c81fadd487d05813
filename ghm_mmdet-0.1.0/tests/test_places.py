"""Every option and variable that names a place: what it takes, what it refuses, what is written."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mmengine.config import Config

from ghm_mmdet.cli import main, places, write
from ghm_mmdet.cli.places import write_text

from .test_docs import PROGRAMS, parser_of
from .test_docs import _with_subparsers as with_subparsers

RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
SHIPPED = 'retinanet_r50_fpn_ghmc_8xb2-14e_coco'
#: Of an option's name, its value's name or its help, where it names a place.
A_PLACE = re.compile(r'dir|root|out|file|path|folder|record|config|json|\.npz', re.IGNORECASE)
#: Options with such a word that name none, and why.
NO_PLACES = {'--cfg-options': 'settings', 'NAME': 'of a shipped config'}
#: What may be the `type` of the others.
KINDS = ('file_to_read', 'folder_to_read', 'file_to_write', 'folder_to_write')
TYPES = (*KINDS, 'config_to_read', 'place')
pytestmark = pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')


def options_that_name_a_place() -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """Those of `ghm-mmdet`, the tools, the studies and the benchmarks, with their parsers."""
    for program in PROGRAMS:
        if not program.startswith('-m ghm_mmdet '):
            for parser in with_subparsers(parser_of(program.split())):
                for action in parser._actions:
                    if names_a_place(action):
                        yield parser, action


def names_a_place(action: argparse.Action) -> bool:
    takes_a_word = action.nargs != 0 and not action.choices and action.type not in (int, float)
    names = [*action.option_strings, action.metavar or action.dest, action.dest]
    if not takes_a_word or not set(names).isdisjoint(NO_PLACES):
        return False
    return bool(A_PLACE.search(' '.join([*map(str, names), action.help or ''])))


@pytest.fixture(scope='module')
def options() -> list[tuple[argparse.ArgumentParser, argparse.Action]]:
    return list(options_that_name_a_place())


def test_every_option_that_names_a_place_is_read_by_one_of_these(
    options: list[tuple[argparse.ArgumentParser, argparse.Action]],
) -> None:
    of_the_module = {getattr(places, name) for name in TYPES}
    others = [
        f'{parser.prog}: {action.option_strings or action.dest}'
        for parser, action in options
        if action.type not in of_the_module
    ]
    assert others == []
    found = {(p.prog, (a.option_strings or [a.dest])[0]) for p, a in options}
    assert {
        ('ghm-mmdet harmonize', 'config'), ('ghm-mmdet harmonize', '--out'),
        ('ghm-mmdet config', '--out'), ('ghm-mmdet figures', 'record'),
        ('ghm-mmdet figures', '--out'), ('ghm-mmdet reproduce run', '--work-dir'),
        ('ghm-mmdet reproduce run', '--data-root'), ('convert_bccd.py', 'voc'),
    } <= found  # fmt: skip
    assert len(found) > 30


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, with what an option may name, and another folder as the current one."""
    (tmp_path / 'home/folder').mkdir(parents=True)
    (tmp_path / 'home/file').touch()
    (tmp_path / 'work').mkdir()
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.chdir(tmp_path / 'work')
    return tmp_path / 'home'


def test_a_tilde_is_the_home_folder_in_every_option(
    options: list[tuple[argparse.ArgumentParser, argparse.Action]], home: Path
) -> None:
    """In `--option=~/x` the shell leaves it to the command."""
    for parser, action in options:
        kind = 'folder' if 'folder' in action.type.__name__ else 'file'
        for option in action.option_strings:
            words = [f'{option}=~/{kind}', *required_beside(parser, action)]
            value = getattr(parse(parser, words), action.dest)
            assert value == home / kind, (parser.prog, option)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    return argparse.ArgumentParser.parse_known_args(parser, words)[0]


def required_beside(
    parser: argparse.ArgumentParser, other: argparse.Action, before: bool = False
) -> list[str]:
    """Values for what else a parser wants, or wants before an argument."""
    words = []
    for action in parser._actions:
        if before and action is other:
            break
        if action.required and action is not other:
            is_folder = 'folder' in getattr(action.type, '__name__', '')
            value = next(iter(action.choices)) if action.choices else '~/file'
            words += [*action.option_strings[:1], '~/folder' if is_folder else value]
    return words


def test_a_config_has_a_path_or_a_name(scene: Path, home: Path) -> None:
    for text, value in (
        ('file', 'file'),
        ('~/file', f'{home}/file'),
        (RETINANET, RETINANET),
    ):
        assert places.config_to_read(text) == value
    assert refusal(places.config_to_read, 'missing.py') == f"'missing.py': {NOT_THERE}"


def test_a_tilde_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', '/elsewhere')
    user = getpass.getuser()
    assert places.place(f'~{user}/x') == Path(os.path.expanduser(f'~{user}'), 'x')
    # As the shell leaves it.
    assert places.place('~nobody_has_this_name/x') == Path('~nobody_has_this_name/x')


def test_a_tilde_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number: never a folder whose name is `~`."""
    monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
    assert refusal(places.place, '~/x') == (
        "'~/x' needs a home folder: set HOME, or write the whole path"
    )
    assert refusal(places.place, '~') is not None
    assert refusal(places.place, './~/x') is None


def refusal(kind: Callable[[str], Path], text: str) -> str | None:
    """What is said of a value; None if it is taken."""
    try:
        kind(text)
    except argparse.ArgumentTypeError as error:
        return str(error)
    return None


LONG = 'x' * 300
NOT_THERE = 'No such file or directory'
#: A value to what is said of it where a file is read, a folder is read, a file is written and a
#: folder is written; None where it is right.
VALUES: dict[str, tuple[str | None, str | None, str | None, str | None]] = {
    'file': (None, "'file' is a file, not a folder", None, "'file' is a file, not a folder"),
    'folder': ("'folder' is a folder, not a file", None, "is a folder, not a file", None),
    'link_to_file': (None, 'is a file, not a folder', None, 'is a file, not a folder'),
    'link_to_folder': ('is a folder, not a file', None, 'is a folder, not a file', None),
    'missing': (f"'missing': {NOT_THERE}", f"'missing': {NOT_THERE}", None, None),
    'missing/new': (NOT_THERE, NOT_THERE, None, None),
    'file/x': (
        "'file/x': Not a directory", 'Not a directory',
        "file' is a file, not a folder", "'file' is a file, not a folder",
    ),
    'dangling': (
        f"'dangling', a link to 'gone': {NOT_THERE}", f"'dangling', a link to 'gone': {NOT_THERE}",
        None, f"'dangling', a link to 'gone': {NOT_THERE}",
    ),
    'dangling/new': (NOT_THERE, NOT_THERE, None, "'dangling', a link to 'gone'"),
    'loop': ("'loop', a link to 'loop': Too many levels of symbolic links",) * 2
    + ('Too many levels of symbolic links',) * 2,
    LONG: ('File name too long',) * 4,
    f'missing/{LONG}': (NOT_THERE,) * 4,
    '': ("must name a file or a folder, got ''",) * 4,
    ' ': ("must name a file or a folder, got ' '",) * 4,
    '-': ("must name a file or a folder, got '-'",) * 4,
    'pipe': ('is a device or pipe, not a file', 'is a device or pipe, not a folder') * 2,
    '/dev/null': ('is a device or pipe, not a file', 'is a device or pipe, not a folder') * 2,
    '.': ("'.' is a folder, not a file", None, 'is a folder, not a file', None),
}  # fmt: skip


@pytest.fixture
def scene(home: Path) -> Path:
    """The current folder, with what the values name."""
    Path('file').touch()
    Path('folder').mkdir()
    for link, target in (
        ('link_to_file', 'file'), ('link_to_folder', 'folder'), ('dangling', 'gone'),
        ('loop', 'loop'),
    ):  # fmt: skip
        Path(link).symlink_to(target)
    os.mkfifo('pipe')
    return Path.cwd()


@pytest.mark.parametrize('value', VALUES, ids=lambda value: repr(value[:12]))
def test_what_is_said_of_a_value(value: str, scene: Path) -> None:
    before = sorted(scene.iterdir())
    for kind, expected in zip(KINDS, VALUES[value]):
        found = refusal(getattr(places, kind), value)
        assert (found is None) == (expected is None), (kind, found)
        assert expected is None or expected in found, kind
    assert (refusal(places.place, value) is None) == (value.strip() not in ('', '-'))
    assert sorted(scene.iterdir()) == before, 'nothing is made by looking'


def test_what_may_not_be_read_or_written() -> None:
    """By a user who is not root, who may do all."""
    with tempfile.TemporaryDirectory() as name:
        locked = Path(name, 'locked')
        locked.mkdir()
        (locked / 'file').touch()
        for path, mode in ((locked / 'file', 0o000), (locked, 0o555), (Path(name), 0o755)):
            path.chmod(mode)
        values = {
            **dict.fromkeys(['file_to_read', 'file_to_write'], '/file'),
            **dict.fromkeys(['folder_to_read', 'folder_to_write'], ''),
        }
        new = {f'{kind}_to_write': '/new/er' for kind in ('file', 'folder')}
        said = as_another_user(
            lambda: [
                refusal(getattr(places, kind), f'{locked}{value}')
                for kind, value in [*values.items(), *new.items()]
            ]
        )
        denied = f"'{locked}': Permission denied"
        of_file = f"'{locked}/file': Permission denied"
        assert said == [of_file, of_file, None, denied, denied, denied]
        locked.chmod(0o755)


def as_another_user(check: Callable[[], object]) -> object:
    """What a check returns in a process without the rights of root."""
    receiver, sender = os.pipe()
    if os.fork() == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            os.write(sender, json.dumps(check()).encode())
        finally:
            os._exit(0)
    os.close(sender)
    with open(receiver, encoding='utf-8') as file:
        return json.loads(file.read())


def test_every_command_says_it_in_a_line_with_the_name_of_its_option(
    options: list[tuple[argparse.ArgumentParser, argparse.Action]],
    scene: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for parser, action in options:
        kind = action.type.__name__.replace('config', 'file')
        for value, said in VALUES.items():
            words = [f'{option}={value}' for option in action.option_strings[:1]]
            words = words or [*required_beside(parser, action, before=True), value]
            expected = dict(zip(KINDS, said)).get(kind)
            if kind == 'place' and value.strip() in ('', '-'):
                expected = 'must name a file or a folder'
            if expected is None:
                continue
            with pytest.raises(SystemExit) as stop:
                parse(parser, words)
            line = capsys.readouterr().err.splitlines()[-1]
            assert stop.value.code == 2
            name = action.option_strings[0] if action.option_strings else action.dest
            assert line.startswith(f'{parser.prog}: ') and expected in line, line
            assert f'argument {name}' in line or f'argument {action.metavar}' in line


# What is written.


def test_force_overwrites_what_a_link_points_at(home: Path) -> None:
    """Where it lies: the links to it, its permissions and its owner stay."""
    Path('exps').mkdir()
    target, link, hard = Path('exps/exp7.py'), Path('current.py'), Path('hard.py')
    target.write_text('old = True\n' * 1000, encoding='utf-8')
    target.chmod(0o664)
    link.symlink_to(target)
    os.link(target, hard)
    before = target.stat()
    with pytest.raises(SystemExit, match=r'current\.py exists: --force overwrites it'):
        main(['config', SHIPPED, '--out', 'current.py'])
    assert target.read_text(encoding='utf-8').startswith('old')
    old_mask = os.umask(0o077)
    try:
        main(['config', SHIPPED, '--out', 'current.py', '--force'])
    finally:
        os.umask(old_mask)
    after = target.stat()
    assert link.is_symlink() and os.readlink(link) == 'exps/exp7.py'
    for what in ('st_ino', 'st_mode', 'st_uid', 'st_gid'):
        assert getattr(after, what) == getattr(before, what), what
    main(['config', SHIPPED, '--out', 'plain.py'])
    text = Path('plain.py').read_text(encoding='utf-8')
    assert text == hard.read_text(encoding='utf-8') == target.read_text(encoding='utf-8')
    assert sorted(path.name for path in Path('exps').iterdir()) == ['exp7.py']


def test_a_link_to_nothing_is_filled(home: Path) -> None:
    """As the shell does it."""
    Path('next.py').symlink_to('exps/exp8.py')
    main(['config', SHIPPED, '--out', 'next.py'])
    assert Path('next.py').is_symlink() and Path('exps/exp8.py').is_file()


def test_a_config_behind_a_link_is_read_by_both_its_names(home: Path) -> None:
    Path('exps').mkdir()
    Path('current.py').symlink_to('exps/exp7.py')
    Path('mine.py').write_text(f'_base_ = {RETINANET!r}\n', encoding='utf-8')
    main(['harmonize', 'mine.py', '--out', 'current.py'])
    configs = [Config.fromfile(path).to_dict() for path in ('current.py', 'exps/exp7.py')]
    assert configs[0] == configs[1]
    assert configs[0]['model']['bbox_head']['loss_cls']['type'] == 'ghm_mmdet.GHMC'


@contextmanager
def full_disk() -> Iterator[None]:
    """No file gets longer than 2,000 bytes: the system refuses the rest, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize('old', [b'', b'mine\n' * 300])
def test_what_does_not_fit_leaves_what_was_there(
    old: bytes, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path('new/x.py')
    if old:
        path.parent.mkdir()
        path.write_bytes(old)
    modes = []

    def spy(path: Path, mode: str) -> object:
        modes.append((mode, path.exists()))
        return open(path, mode)

    monkeypatch.setattr(places, 'open', spy, raising=False)
    with full_disk(), pytest.raises(OSError, match='File too large'):
        write_text(path, 'x = 1\n' * 1000)
    assert (path.read_bytes() if path.exists() else b'') == old
    assert [p.name for p in path.parent.iterdir()] == (['x.py'] if old else [])
    assert ('wb', True) not in modes, 'the space of the old text is not given up'
    write_text(path, 'short')
    assert path.read_bytes() == b'short'


def test_a_full_disk_is_a_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_full_disk(path: Path, text: str) -> None:
        with full_disk():
            write_text(path, text * 10)

    monkeypatch.setattr(write, 'write_text', on_a_full_disk)
    with pytest.raises(SystemExit, match=r'^x\.py can not be written: .*File too large$'):
        main(['config', SHIPPED, '--out', 'x.py'])
    assert not Path('x.py').exists()


def test_text_is_utf_8_and_shorter_text_leaves_no_rest(home: Path) -> None:
    write_text(Path('x.md'), 'ε' * 100)
    write_text(Path('x.md'), 'α')
    assert Path('x.md').read_bytes() == 'α'.encode()
    with pytest.raises(UnicodeEncodeError):
        write_text(Path('x.md'), '\udcff')
    assert Path('x.md').read_bytes() == 'α'.encode()


def test_missing_data_are_said_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the default, by the variable, whose `~` is expanded, and by the option."""
    run = ['reproduce', 'run', '--table', '7', '--work-dir', 'runs']
    for variable, root in ((None, 'data/coco'), ('~/coco', f'{home}/coco')):
        if variable:
            monkeypatch.setenv('COCO_ROOT', variable)
        with pytest.raises(SystemExit) as stop:
            main(run)
        assert str(stop.value.code).startswith(
            f'reproduce run: {root}/annotations/instances_train2017.json is not there: --data-root'
        )
        assert '\n' not in str(stop.value.code)
    assert not Path('runs').exists()
