"""The two stacks of PyTorch, mmcv, mmengine, mmdet and MIM. Imports nothing of them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

#: Each stack to its requirements, as requirements/ has them, by the module that they bring.
STACKS = {
    'onedl': dict(
        torch='torch==2.13.0', mmcv='onedl-mmcv==2.3.6', mmengine='onedl-mmengine==0.10.12',
        mmdet='onedl-mmdetection==3.5.1', mim='onedl-mim==0.5.1',
    ),
    'openmmlab': dict(
        torch='torch==2.1.2', mmcv='mmcv==2.1.0', mmengine='mmengine==0.10.7',
        mmdet='mmdet==3.3.0', mim='openmim==0.3.9',
    ),
}  # fmt: skip


def distribution_name(requirement: str) -> str:
    """The name in a requirement `name==version`."""
    return requirement.split('==')[0]


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def distributions(module: str) -> list[str]:
    """The installed distributions that bring a module, `mmcv-lite` and its like included."""
    names = dict.fromkeys(distribution_name(stack[module]) for stack in STACKS.values())
    return [name for name in (*names, f'{module}-lite') if installed_version(name)]


def mmdet_distribution() -> str:
    """The name of MMDetection's installed distribution, which `mim train` and `mim test` take.

    Raises:
        ModuleNotFoundError: MMDetection is not installed.
    """
    installed = distributions('mmdet')
    if not installed:
        raise ModuleNotFoundError('MMDetection is not installed: run ghm-mmdet doctor')
    return installed[0]
