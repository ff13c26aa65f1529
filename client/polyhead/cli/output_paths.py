"""Checks of output paths, before a command does the work whose result it will write."""

from __future__ import annotations

from pathlib import Path

from polyhead.cli.command import UsageError

__all__ = ["check_folder", "check_png"]


def check_png(flag: str, path: str) -> None:
    """Raise UsageError unless the path ends in .png and its folder exists."""
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"{flag} is {path}; expected a name that ends in .png")
    check_folder(path)


def check_folder(path: str) -> None:
    """Raise UsageError unless the path's folder exists."""
    if not (folder := Path(path).parent).is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {folder}")
