"""`ghm-mmdet`: harmonize and doctor as users run them, and what happens where nothing is set up."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from ghm_mmdet import __version__, losses_found
from ghm_mmdet.cli import COMMANDS, main
from ghm_mmdet.cli.streams import command_line
from ghm_mmdet.cli.write import print_config
from ghm_mmdet.visualization.record import GradientDensityRecord

ROOT = Path(__file__).parent.parent
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
GREEK = 'retinanet_r50_fpn_ce_8xb2-14e_coco'
RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'


def test_harmonize_ends_with_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(['harmonize', FASTER, '--out', str(tmp_path / 'ghm.py'), '--no-reg', '--head', 'RPNHead'])
    assert capsys.readouterr().out.splitlines()[-1] == '1 replaced, 3 kept'
    # The config alone is printed, for those who send it to a file.
    main(['harmonize', FASTER])
    printed = capsys.readouterr()
    (tmp_path / 'printed.py').write_text(printed.out, encoding='utf-8')
    head = Config.fromfile(tmp_path / 'printed.py').model.rpn_head
    assert head.loss_bbox.type == 'ghm_mmdet.GHMR'
    assert printed.err.splitlines()[-1] == '3 replaced, 1 kept'


def test_harmonize_overwrites_by_force_alone(tmp_path: Path) -> None:
    out = tmp_path / 'ghm.py'
    out.write_text('mine', encoding='utf-8')
    with pytest.raises(SystemExit, match=r'ghm\.py exists: --force overwrites it'):
        main(['harmonize', RETINANET, '--out', str(out)])
    assert out.read_text(encoding='utf-8') == 'mine'
    main(['harmonize', RETINANET, '--out', str(out), '--force'])
    assert 'ghm_mmdet.GHMC' in out.read_text(encoding='utf-8')


def test_harmonize_prints_a_line_for_each_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'ghm.py'
    main(['harmonize', FASTER, '--no-cls', '--out', str(out)])
    plan = losses_found(FASTER, cls=False)
    expected = [*map(str, plan.losses), *plan.notes, f'written to {out}', '2 replaced, 2 kept']
    *said, how_to_compare, summary = capsys.readouterr().out.splitlines()
    assert [*said, summary] == expected and how_to_compare.startswith('compare it with ')


def test_harmonize_starts_without_torch() -> None:
    """Whose import takes seconds; a config with heads of its own needs it."""
    code = (
        'import sys; from ghm_mmdet.cli import main; '
        f'main(["harmonize", {RETINANET!r}]); sys.exit("torch" in sys.modules)'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_what_a_config_prints_is_not_in_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'talks.py').write_text(
        f'print("hello")\n_base_ = {RETINANET!r}\n', encoding='utf-8'
    )
    main(['harmonize', str(tmp_path / 'talks.py')])
    printed = capsys.readouterr()
    assert 'hello' in printed.err and 'hello' not in printed.out
    (tmp_path / 'printed.py').write_text(printed.out, encoding='utf-8')
    assert 'ghm_mmdet.GHMC' in Config.fromfile(tmp_path / 'printed.py').pretty_text


def by_shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess:
    """The command as a shell runs it with a redirection."""
    command = ['sh', '-c', f'exec "$@" {redirection}', 'sh', sys.executable, '-m', 'ghm_mmdet']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)


def test_closed_streams_are_no_failure(tmp_path: Path) -> None:
    out = tmp_path / 'ghm.py'
    done = by_shell('>&-', 'harmonize', RETINANET, '--out', str(out))
    assert (done.returncode, done.stderr) == (0, '') and out.exists()
    done = by_shell('2>&-', 'harmonize', RETINANET)
    assert done.returncode == 0 and 'ghm_mmdet.GHMC' in done.stdout
    assert 'replaced, 0 kept' not in done.stdout


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_full_disk_is_one_line() -> None:
    done = by_shell('>/dev/full', 'config')
    assert (done.returncode, done.stderr) == (1, '[Errno 28] No space left on device\n')


def test_a_tilde_of_nobody_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the shell."""
    monkeypatch.chdir(tmp_path)
    main(['harmonize', RETINANET, '--out', '~nobody_has_this_name/ghm.py'])
    assert Path('~nobody_has_this_name/ghm.py').exists()


@pytest.mark.parametrize('arguments', [['harmonize', RETINANET], ['reproduce', 'plan']])
def test_a_closed_pipe_ends_quietly(arguments: list[str]) -> None:
    """As behind `| head`, here before the first line."""
    command = [sys.executable, '-m', 'ghm_mmdet', *arguments]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, '')


COMMAND_LINES = """
import locale, sys
from ghm_mmdet.cli import main
assert locale.getpreferredencoding(False) == 'ANSI_X3.4-1968'
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""


@pytest.mark.slow
def test_every_command_under_a_locale_that_is_not_utf_8(tmp_path: Path) -> None:
    """Files are read and written in UTF-8; what a terminal lacks is printed as its code."""
    mine, text = tmp_path / 'mine.py', '# \ud55c\uad6d\uc5b4, \u03bc\n'
    text += f'_base_ = {RETINANET!r}\nmetainfo = dict(classes=("\u7d30\u80de",))\n'
    mine.write_text(text, encoding='utf-8')
    record = GradientDensityRecord.empty(600)
    record.append(1, np.ones((2, 2, 600)), 0.02)
    record.save(tmp_path / 'record.npz')
    lines = [
        f'harmonize {mine} --out {tmp_path}/ghm.py',
        f'harmonize {mine}',
        f'config {GREEK} --out {tmp_path}/greek.py',
        'config',
        'doctor',
        'reproduce plan',
        f'reproduce report --work-dir {tmp_path}',
        f'figures {tmp_path}/record.npz --out {tmp_path}/figures --format svg',
    ]
    assert {line.split()[0] for line in lines} == set(COMMANDS)
    locale = dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING='')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', COMMAND_LINES, *lines],
        env={**os.environ, **locale, 'PYTHONPATH': str(ROOT)}, cwd=ROOT, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    main(['harmonize', str(mine), '--out', str(tmp_path / 'expected.py')])
    expected = (tmp_path / 'expected.py').read_bytes()
    assert (tmp_path / 'ghm.py').read_bytes() == expected
    assert expected.strip() in done.stdout, 'printed into a file as it is written'
    assert Config.fromfile(tmp_path / 'ghm.py').metainfo.classes == ('\u7d30\u80de',)
    shipped = ROOT / f'configs/ghm/{GREEK}.py'
    assert not shipped.read_bytes().isascii()
    assert Config.fromfile(tmp_path / 'greek.py').model == Config.fromfile(shipped).model


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A clone that is not set up: this Python with its standard library alone."""
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    command = [sys.executable, '-S', *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize('tool', ['harmonize', 'reproduce'])
def test_tools_ask_for_the_set_up(tool: str) -> None:
    done = bare(f'tools/{tool}.py', '--help')
    assert done.returncode == 1
    assert 'run `make env`' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('command', COMMANDS)
def test_help_needs_no_set_up_and_asks_for_it(command: str) -> None:
    done = bare('-m', 'ghm_mmdet', command, '--help')
    assert (done.returncode, done.stderr) == (0, '')
    assert f'usage: ghm-mmdet {command}' in done.stdout
    assert 'run `make env`' in done.stdout


@pytest.mark.parametrize(
    'command',
    [
        ['harmonize', RETINANET],
        ['reproduce', 'plan'],
        ['figures', 'docs/records/demo.npz', '--out', 'x'],
    ],
    ids=' '.join,
)
def test_commands_ask_for_the_set_up(command: list[str]) -> None:
    done = bare('-m', 'ghm_mmdet', *command)
    assert done.returncode == 1
    assert 'run `make env`' in done.stderr
    assert 'Traceback' not in done.stderr


def test_doctor_needs_no_set_up() -> None:
    done = bare('-m', 'ghm_mmdet', 'doctor')
    assert (done.returncode, done.stderr) == (1, '')
    lines = done.stdout.splitlines()
    stopping = [before for before, line in zip(lines, lines[1:]) if line.startswith('!!')]
    assert {line.split()[0] for line in stopping} == {'torch', 'mmcv', 'mmengine', 'mmdet'}
    assert lines[-1].startswith('No training can start')


def test_doctor_says_that_a_training_can_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(['doctor'])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert printed.endswith('A training can start.\n')
    assert {'torch', 'mmcv', 'kernels'} <= {
        line.split()[0] for line in printed.splitlines() if line
    }


def test_figures_names_a_file_that_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / 'broken.npz'
    path.write_text('text', encoding='utf-8')
    with pytest.raises(SystemExit, match=r'broken\.npz is no record'):
        main(['figures', str(path), '--out', str(tmp_path)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('config --out my.py', '--out needs NAME'),
        ('reproduce plan --table 7 --cfg-options model.backbone.depth.x=1', '^reproduce plan: '),
        ('reproduce plan --table 7 --cfg-options train_cfg=1', '^reproduce plan: '),
    ],
)
def test_what_can_not_be_done_is_one_line(arguments: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message) as end:
        main(arguments.split())
    assert '\n' not in str(end.value)


def test_no_command_is_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = []
    monkeypatch.setattr(sys, 'argv', ['ghm-mmdet'])
    for arguments in (['--help'], [], None):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code
        printed.append(capsys.readouterr())
    assert printed[0] == printed[1] == printed[2]
    assert all(f'\n    {name}' in printed[0].out for name in COMMANDS) and printed[0].err == ''


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(['--version'])
    assert (stop.value.code, capsys.readouterr().out) == (0, f'ghm-mmdet {__version__}\n')


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        ('harmonise x.py', "got 'harmonise'; did you mean 'harmonize'?"),
        (f'harmonize {RETINANET} --preset relased', "got 'relased'; did you mean 'released'?"),
        ('figures docs/records/demo.npz --out x --format pngs', "; did you mean 'png'?"),
        ('reproduce rum', "must be one of plan, run, status, report, got 'rum'; did you mean 'run'?"),
        ('wrong', "must be one of compare, harmonize, config, doctor, reproduce, figures, got 'wrong' (see"),
        ('harmonize', 'the following arguments are required: config (see ghm-mmdet harmonize'),
        ('--option', 'the following arguments are required: COMMAND (see ghm-mmdet --help)'),
        ('reproduce plan --table x', 'ghm-mmdet reproduce plan: argument --table: invalid int'),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With status 2, and with what may have been meant."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, '')
    assert line in printed.err and printed.err.count('\n') == 1


def test_a_config_that_may_have_been_meant() -> None:
    with pytest.raises(SystemExit, match=f"got 'retinanet_r50_ce'; did you mean '{GREEK}'"):
        main(['config', 'retinanet_r50_ce'])
    with pytest.raises(SystemExit, match=r"got 'x'$"):
        main(['config', 'x'])


def in_a_thread(*arguments: str) -> tuple[object, str]:
    """What a command ends with in a thread, and prints, as a web interface runs it."""
    outcome: list[object] = []

    def command() -> None:
        try:
            outcome.append(main(arguments))
        except BaseException as error:
            outcome.append(error)

    with contextlib.redirect_stdout(io.StringIO()) as out:
        thread = threading.Thread(target=command)
        thread.start()
        thread.join()
    return outcome[0], out.getvalue()


def test_a_command_in_a_thread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(['config'])
    before = signal.getsignal(signal.SIGTERM)
    assert in_a_thread('config') == (None, capsys.readouterr().out)
    assert signal.getsignal(signal.SIGTERM) == before
    end, printed = in_a_thread('harmonize', RETINANET, '--out', str(tmp_path / 'ghm.py'))
    assert end is None and printed.endswith('2 replaced, 0 kept\n')
    end, _ = in_a_thread('harmonize', RETINANET, '--out', str(tmp_path / 'ghm.py'))
    assert isinstance(end, SystemExit) and 'exists: --force overwrites it' in str(end)
    end, _ = in_a_thread('wrong')
    assert isinstance(end, SystemExit) and end.code == 2


def test_signals_are_left_to_the_main_thread() -> None:
    """Its handler, as a server has one, is that during the command, too."""
    seen = []

    def command() -> None:
        with command_line():
            seen.append(signal.getsignal(signal.SIGTERM))

    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        thread = threading.Thread(target=command)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert seen == [signal.SIG_IGN]


def test_an_output_without_a_descriptor() -> None:
    """An error of the system is a line there, too."""
    out = contextlib.redirect_stdout(io.StringIO())
    with out, pytest.raises(SystemExit, match=r'^disk$'), command_line():
        raise OSError('disk')


def test_printing_a_config_leaves_the_encoding_of_the_output() -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding='ascii')
    with contextlib.redirect_stdout(out):
        main(['harmonize', RETINANET])
        print('before')
        print_config('μ')
        assert out.encoding == 'ascii'
        print('after', flush=True)
    text = written.getvalue().decode('utf-8')
    assert text.startswith('# ') and text.endswith('before\nμ\nafter\n')


@pytest.mark.parametrize('handler', [signal.SIG_DFL, signal.SIG_IGN])
def test_a_command_leaves_the_signals_of_its_process(handler: signal.Handlers) -> None:
    """Whose children inherit them: a pool that is forked must end by SIGTERM."""
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with command_line():
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGTERM, previous)
