"""A release is of one version, and says what it has."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ghm_mmdet import __version__

ROOT = Path(__file__).parent.parent


def test_versions_are_of_one_mind() -> None:
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    assert re.findall(r'^## \[(.+?)\]', changelog, re.MULTILINE)[0] == __version__
    assert (
        yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))['version']
        == __version__
    )


def test_a_tag_is_the_version() -> None:
    """The one that is being published, or that this commit has."""
    tag = os.environ.get('GITHUB_REF_NAME') if os.environ.get('GITHUB_REF_TYPE') == 'tag' else None
    if tag is None:
        command = ['git', 'tag', '--points-at', 'HEAD', 'v*']
        tag = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if not tag:
        pytest.skip('this commit has no tag')
    assert tag.splitlines()[0] == f'v{__version__}'


def test_python_versions_are_those_that_are_tested() -> None:
    project = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    named = set(re.findall(r'Python :: (3\.\d+)"', project))
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text(encoding='utf-8'))
    tested = {job['python'] for job in workflow['jobs']['test']['strategy']['matrix']['include']}
    assert named == tested
    assert f'requires-python = ">={min(named, key=lambda x: int(x[2:]))}"' in project


def test_actions_run_the_steps_of_ci() -> None:
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text(encoding='utf-8'))
    jobs = workflow['jobs']['test']['strategy']['matrix']['include']
    run = {word for job in jobs for word in job['steps'].split()}
    steps = re.findall(r'^step (.+)$', (ROOT / '.ci/run').read_text(encoding='utf-8'), re.MULTILINE)
    assert {word for step in steps for word in step.split()} <= run
