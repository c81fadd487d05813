"""Every code block of README and docs, the links between pages, the API page, every --help."""

from __future__ import annotations

import argparse
import ast
import json
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import mim
import mmdet
import pytest
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmengine.config import Config, ConfigDict

import ghm_mmdet
from ghm_mmdet import functional
from ghm_mmdet.cli import COMMANDS, places

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(ROOT.glob('docs/*.md'))]
NOTEBOOKS = sorted(ROOT.glob('docs/notebooks/*.ipynb'))
#: Columns of code.
WIDTH = 80
TOOLS = sorted(ROOT.glob('tools/*.py'))
SCRIPTS = sorted(ROOT.glob('tools/*.sh'))
pytestmark = pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
#: What has a command line: the tools, the modules that are run by `python -m`, and `ghm-mmdet`.
PROGRAMS = (
    [f'tools/{tool.name}' for tool in TOOLS]
    + [
        f'-m {path.parent.name}.{path.stem}'
        for folder in ('studies', 'benchmarks')
        for path in sorted(ROOT.glob(f'{folder}/*.py'))
        if '.parse_args(' in path.read_text(encoding='utf-8') and path.stem != 'command_line'
    ]
    + ['-m ghm_mmdet', *(f'-m ghm_mmdet {command}' for command in COMMANDS)]
)

#: Commands that are run as they stand; the others are parsed, and their options checked.
#: tests/test_figures.py draws what the page on figures shows.
CHEAP = {
    'ghm-mmdet reproduce plan --table 5',
    'ghm-mmdet reproduce report --table 5',
}
#: Commands that are not run, nor have options of this package to check, and why.
NOT_RUN = {
    'pip install': 'sets an environment up: requirements/setup.sh does the same in CI',
    'git clone': 'needs the network',
    'mim search': 'needs the wheel: tests/test_package.py',
    'mim download': 'needs the wheel: tests/test_package.py',
    'tools/dist_train.sh': 'needs several processes: tests/test_launch.py',
    'tools/slurm_train.sh': 'needs Slurm: tests/test_launch.py',
}
#: Python that is not run, by a part of it, and why.
PYTHON_NOT_RUN = {
    "_base_ = 'ghm_mmdet::": 'needs the wheel: tests/test_package.py',
    "torch.load('released.pth'": 'needs a checkpoint: tests/test_old_checkpoints.py',
}


class Block(NamedTuple):
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def id(self) -> str:
        return f'{self.page.name}:{self.line}'


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding='utf-8')
        for match in re.finditer(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S):
            yield Block(page, text[: match.start()].count('\n') + 1, match[1], match[2])


BLOCKS = list(blocks())


def of_language(language: str) -> pytest.MarkDecorator:
    chosen = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize('block', chosen, ids=[block.id for block in chosen])


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, as in a clone; what is written there leaves the real one alone."""
    for name in ('configs', 'tools', 'requirements', 'docs/records'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'my_config.py').write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n", encoding='utf-8'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clone_after_demo(clone: Path, demo_data: Path, ghm_training: Path) -> Path:
    """With a checkpoint of a shorter training instead of the demo's."""
    work_dir = clone / 'work_dirs/demo/retinanet_r18_fpn_ghmc-ghmr_demo'
    work_dir.mkdir(parents=True)
    (work_dir / 'epoch_10.pth').symlink_to(ghm_training / 'iter_50.pth')
    (clone / 'work_dirs/demo/data').symlink_to(demo_data)
    return clone


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path) -> None:
    """Runs, in a process of its own, and prints what it was committed with."""
    import nbformat
    from nbclient import NotebookClient

    committed = nbformat.read(path, as_version=4)
    client = NotebookClient(deepcopy(committed), timeout=300, coalesce_streams=True)
    executed = client.execute()
    printed = [
        [
            [output.get('text', 'a figure') for output in cell.get('outputs', [])]
            for cell in notebook.cells
        ]
        for notebook in (committed, executed)
    ]
    assert printed[0] == printed[1]
    assert sum(outputs == ['a figure'] for outputs in printed[0]) >= 3


def test_code_fits_the_page() -> None:
    """Lines of code that a reader need not scroll."""
    blocks = [block for block in BLOCKS if block.page.name != 'README.md']
    lines = [(block.id, line) for block in blocks for line in block.code.splitlines()]
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            if cell['cell_type'] == 'code':
                lines += [(path.name, line.rstrip()) for line in cell['source']]
    assert [line for line in lines if len(line[1]) > WIDTH] == []


def test_blocks_are_of_known_languages() -> None:
    assert {block.language for block in BLOCKS} == {'python', 'shell', 'diff', 'text', 'bibtex'}


@of_language('python')
def test_python(block: Block, clone_after_demo: Path) -> None:
    """A program is executed; assignments alone are a config, which is loaded and built."""
    for part, reason in PYTHON_NOT_RUN.items():
        if part in block.code:
            pytest.skip(reason)
    if all(isinstance(node, ast.Assign) for node in ast.parse(block.code).body):
        path = clone_after_demo / 'block.py'
        path.write_text(block.code, encoding='utf-8')
        build(Config.fromfile(path))
    else:
        exec(compile(block.code, block.id, 'exec'), {'__name__': '__main__'})


@of_language('diff')
def test_diff(block: Block) -> None:
    """Both sides of a change are losses."""
    for line in block.code.splitlines():
        build(ConfigDict(eval(f'dict({line[1:]})')))


def build(config: Config | ConfigDict) -> None:
    """Build what a config, or a part of one, describes; the data sets without their files."""
    for key in ('loss_cls', 'loss_bbox'):
        if key in config:
            MODELS.build(config[key])
    for hook in config.get('custom_hooks', []):
        HOOKS.build(hook)
    if 'model' in config:
        config.model.backbone.init_cfg = None
        model = MODELS.build(config.model)
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            data = DATASETS.build(dict(config[loader].dataset, lazy_init=True))
            assert len(data.metainfo['classes']) == model.bbox_head.num_classes


@of_language('shell')
def test_shell(block: Block, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(['bash', '-n'], input=block.code, text=True, check=True)
    for command in commands(block):
        if command in CHEAP:
            start(['-m', 'ghm_mmdet', *shlex.split(command)[1:]], monkeypatch)
        else:
            check(command)


def commands(block: Block) -> list[str]:
    """The commands of a block without comments, with variables of the page replaced."""
    lines = block.code.replace('\\\n', ' ').splitlines()
    variables = dict(re.findall(r'^([A-Z]+)=(\S+)$', block.page.read_text(encoding='utf-8'), re.M))
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        words = [variables.get(word.removeprefix('$'), word) for word in words]
        while words and re.match(r'[A-Z_]+=', words[0]):
            assert_config_exists(words.pop(0).split('=', 1)[1])
        if words:
            found.append(shlex.join(words))
    return found


def check(command: str) -> None:
    """What can be said of a command without running it."""
    words = shlex.split(command)
    if words[0] == 'make':
        targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.M)
        assert words[1] in targets
    elif words[0] == 'mim' and words[1] in ('train', 'test', 'run'):
        check_mim(words[1:])
    elif words[0] == 'ghm-mmdet':
        parse(['-m', 'ghm_mmdet', *words[1:]])
    elif words[0] == 'python' and (words[1].startswith('tools/') or _is_ours(words)):
        parse(words[1:])
    else:
        assert any(command.startswith(known) for known in NOT_RUN), (
            f'{command}: neither run nor checked; give it a rule here'
        )


def _is_ours(words: list[str]) -> bool:
    return words[1] == '-m' and words[2].startswith(('studies.', 'benchmarks.', 'ghm_mmdet'))


def check_mim(words: list[str]) -> None:
    """The options are MIM's own, or those of MMDetection's script that it starts."""
    verb, package, *rest = words
    assert package == 'onedl-mmdetection'
    script = f'tools/{verb}.py'
    if verb == 'run':
        script = f'tools/{rest.pop(0).replace(":", "/")}.py'
    source = Path(mmdet.__path__[0], '.mim', script).read_text(encoding='utf-8')
    if verb != 'run':
        source += Path(mim.__path__[0], f'commands/{verb}.py').read_text(encoding='utf-8')
    options = [word for word in rest if word.startswith('--')]
    assert [option for option in options if f"'{option}'" not in source] == []
    if rest[0].startswith('configs/'):
        assert_config_exists(rest[0])


def assert_config_exists(path: str) -> None:
    if path.startswith('configs/'):
        assert (ROOT / path).exists()


class _Parsed(Exception):
    """The arguments were understood."""


def parse(words: list[str]) -> None:
    """Let a tool parse its arguments, and no more; the places that they name need not be there."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *args: object) -> None:
        original(parser, *args)
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parsed):
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
        patch.setattr(places, '_checked', lambda path, kind, access: path)
        start(words, patch)


def start(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Run a tool, or `-m` and a module, in this process."""
    if words[0] == '-m':
        patch.setattr(sys, 'argv', words[1:])
        runpy.run_module(words[1], run_name='__main__', alter_sys=True)
    else:
        patch.setattr(sys, 'argv', words)
        runpy.run_path(str(ROOT / words[0]), run_name='__main__')


@pytest.mark.parametrize('program', PROGRAMS)
def test_help_of_tools_has_examples(
    program: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each example is understood by the tool."""
    with pytest.raises(SystemExit) as stop:
        start([*program.split(), '--help'], monkeypatch)
    assert stop.value.code == 0
    text = capsys.readouterr().out.replace('\\\n', ' ')
    examples = re.findall(rf'python ({re.escape(program)} .*)', text)
    examples += [f'-m ghm_mmdet {words}' for words in re.findall('^    ghm-mmdet (.*)', text, re.M)]
    assert examples
    for example in examples:
        parse(shlex.split(example.rstrip('`')))


@pytest.mark.parametrize('program', PROGRAMS)
def test_every_option_has_a_help_text(program: str) -> None:
    without = [
        f'{parser.prog} {action.metavar or action.dest}'
        for parser in _with_subparsers(parser_of(program.split()))
        for action in parser._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert without == []


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    parsers = []

    def parse_args(parser: argparse.ArgumentParser, *args: object) -> None:
        parsers.append(parser)
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parsed):
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
        start(words, patch)
    return parsers[0]


def _with_subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert {choice.dest for choice in action._choices_actions if choice.help} == set(
                action.choices
            )
            for command in action.choices.values():
                yield from _with_subparsers(command)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.stem)
def test_help_of_scripts_has_an_example(script: Path) -> None:
    done = subprocess.run([script, '--help'], capture_output=True, text=True)
    assert done.returncode == 0
    assert re.search(rf'Example:\n.*{script.name} ', done.stdout)
    refused = subprocess.run([script], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (2, done.stdout)


def test_every_make_target_says_what_it_does() -> None:
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    targets = set(re.findall(r'^([a-z-]+):', makefile, re.M))
    # `make test` runs this, too: a make within make says which directory it is in.
    command = ['make', '--no-print-directory', 'help']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == targets
    assert set(re.search(r'^\.PHONY: (.*)$', makefile, re.M)[1].split()) == targets


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_versions_are_those_of_requirements(page: Path) -> None:
    pin = re.compile(r'[\w-]+==[\d.]*\d')
    pinned = {
        p
        for path in ROOT.glob('requirements/*.txt')
        for p in pin.findall(path.read_text(encoding='utf-8'))
    }
    assert set(pin.findall(page.read_text(encoding='utf-8'))) <= pinned


def test_api_page_has_every_public_name() -> None:
    named = re.findall(r'^::: (\S+)$', (ROOT / 'docs/api.md').read_text(encoding='utf-8'), re.M)
    shown = [pkgutil.resolve_name(name) for name in named]
    public = [getattr(functional, name) for name in functional.__all__]
    public += [getattr(ghm_mmdet, name) for name in ghm_mmdet._HOME_OF]
    assert len(shown) == len(public) and set(shown) == set(public)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_between_pages(page: Path) -> None:
    """As files, which is how a code host follows them; `make docs` checks those of the site."""
    for target, anchor in re.findall(
        r'\]\(([^):#]*\.md)?(?:#([\w-]+))?\)', page.read_text(encoding='utf-8')
    ):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), f'{target}#{anchor}'


def anchors(page: Path) -> list[str]:
    headings = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), re.M)
    return [re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-') for heading in headings]
