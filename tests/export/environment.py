"""Separate environments, in which only one package and what it needs can be imported."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import venv
from pathlib import Path


def requirements(name: str) -> set[str]:
    """A distribution and all that it needs and is installed, by normalised name."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if current in found:
            continue
        try:
            needs = importlib.metadata.requires(current) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # needed on other systems only
        found.add(current)
        waiting += [re.split(r"[^A-Za-z0-9_.-]", need)[0] for need in needs if "extra ==" not in need]
    return found


def make_environment(folder: Path, package: str) -> Path:
    """A virtual environment with links to one package and what it needs; returns its Python."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    command = [str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    for name in requirements(package):
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    return python


def run_script(python: Path, script: str, *arguments: str) -> str:
    """What a script prints in an environment; -I keeps this repository and the user's packages out of it."""
    done = subprocess.run(
        [str(python), "-I", "-c", script, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ON_LINUX = sys.platform.startswith("linux")
