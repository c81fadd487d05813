"""Hooks of MkDocs: pages that are made of other files, and where the edit links go."""

import base64
import json
import os
import re
import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
#: Pages made of files in the root of the repository.
FROM_ROOT = {'contributing.md': 'CONTRIBUTING.md', 'changelog.md': 'CHANGELOG.md'}
BRANCH = 'main'


def repository() -> str:
    """Address of the repository's pages: GitHub Actions', or the clone's remote; '' if none."""
    if 'GITHUB_REPOSITORY' in os.environ:
        return f'{os.environ["GITHUB_SERVER_URL"]}/{os.environ["GITHUB_REPOSITORY"]}'
    command = ['git', 'config', '--get', 'remote.origin.url']
    url = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    url = re.sub(r'^(?:ssh://)?git@([^:/]+)[:/]', r'https://\1/', url).removesuffix('.git')
    return url if url.startswith('https://') else ''


def on_config(config: MkDocsConfig) -> None:
    """Without a repository there are no edit links."""
    if url := repository():
        config.repo_url, config.repo_name = url, 'Repository'
        config.edit_uri = f'{url}/edit/{BRANCH}/docs/'


def on_files(files: Files, config: MkDocsConfig) -> None:
    for page, source in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding='utf-8').replace('](docs/', '](')
        for other, root_file in FROM_ROOT.items():
            text = text.replace(f']({root_file})', f']({other})')
        text = text.replace('](LICENSE)', '](LICENSE.txt)')
        add(files, config, page, text, f'../{source}')
    add(files, config, 'LICENSE.txt', (ROOT / 'LICENSE').read_bytes())
    for path in sorted(ROOT.glob('docs/notebooks/*.ipynb')):
        page = f'notebooks/{path.stem}.md'
        add_notebook(files, config, page, json.loads(path.read_text(encoding='utf-8')), path.name)


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Links between files that lead to pages made of them."""
    markdown = re.sub(r'\]\((\S+)\.ipynb\)', r'](\1.md)', markdown)
    for page, source in FROM_ROOT.items():
        markdown = markdown.replace(f'](../{source}', f']({page}')
    return markdown


def add(files: Files, config: MkDocsConfig, uri: str, content: str | bytes, edit: str = '') -> None:
    """Add a page or an image; `edit` is the file that it is made of, seen from docs/."""
    file = File.generated(config, uri, content=content)
    if edit:
        file.edit_uri = edit
    files.append(file)


def add_notebook(files: Files, config: MkDocsConfig, page: str, notebook: dict, name: str) -> None:
    """A page with the cells and the outputs that the notebook was committed with."""
    parts = []
    for number, cell in enumerate(notebook['cells']):
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
            if number == 0:
                parts.append(f'<a href="{name}" download>Download the notebook</a>')
            continue
        parts.append(f'```python\n{source}\n```')
        for output in cell['outputs']:
            data = output.get('data', {})
            text = output.get('text') or data.get('text/plain')
            if 'image/png' in data:
                image = f'{page.removesuffix(".md")}-{number}.png'
                add(files, config, image, base64.b64decode(''.join(data['image/png'])))
                parts.append(f'![Output of the cell above]({Path(image).name})')
            elif text:
                parts.append('```text\n' + ''.join(text).rstrip() + '\n```')
    add(files, config, page, '\n\n'.join(parts), f'notebooks/{name}')
