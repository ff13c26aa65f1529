"""Builds of the project, and environments of a wheel with the extras that are wanted."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
from email.parser import HeaderParser
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from email.message import Message


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with no other variables for Python and polyhead than these."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "POLYHEAD"))}
    environment |= variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def build(out: Path, source: Path, *options: str, **variables: str) -> Path:
    """Build with the installed hatchling; return the wheel."""
    command = (sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", out, source)
    result = run(*command, **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    [wheel] = out.glob("*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path, extras: Iterable[str] = ()) -> Path:
    """Make an environment with a wheel and what it requires; return its bin folder.

    What it requires is that which is installed here, so nothing is downloaded.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    options = ("--no-index", "--no-deps", "--no-compile")
    installed = run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    assert installed.returncode == 0, installed.stderr
    [site_packages] = folder.glob("lib/python*/site-packages")
    for name in closure(base_requirements(wheel, extras)):
        link_distribution(name, site_packages)
    return folder / "bin"


def base_requirements(wheel: Path, extras: Iterable[str] = ()) -> set[str]:
    """Name what the wheel requires with these extras."""
    requirements = wheel_metadata(wheel).get_all("Requires-Dist") or []
    return set(wanted(requirements, ("", *extras))) - {"polyhead"}


def wheel_metadata(wheel: Path) -> Message:
    """Return the fields of a wheel's metadata; the payload is the description."""
    with ZipFile(wheel) as archive:
        [path] = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(path).decode())


def sdist_metadata(sdist: Path) -> Message:
    """Return the same of an sdist."""
    with tarfile.open(sdist) as archive:
        file = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert file is not None
        return HeaderParser().parsestr(file.read().decode())


def wanted(requirements: Iterable[str], extras: Iterable[str] = ("",)) -> Iterator[str]:
    """Name the requirements that hold with any of these extras."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield canonicalize_name(requirement.name)


def closure(names: Iterable[str]) -> set[str]:
    """Add the transitive requirements of the named distributions."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(wanted(distribution(name).requires or []))
    return found


def link_distribution(name: str, site_packages: Path) -> None:
    """Make one installed distribution visible in another environment."""
    for file in distribution(name).files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            link = site_packages / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(file.locate()).resolve())
