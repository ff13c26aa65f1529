"""Adds the repository's documents, and what they link to, to the site, at their own paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_ROOT = Path(__file__).parents[2]
_PATTERNS = (
    "*.md",
    "LICENSE",
    "docs/**/*",
    "benchmarks/RESULTS.md",
    "benchmarks/plots/*",
    "deploy/**/*",
    "protos/polyhead/**/*",
)
_LOGO = "explorer/polyhead_explorer/page/logo.svg"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them to what pages/ has."""
    for pattern in _PATTERNS:
        for path in sorted(_ROOT.glob(pattern)):
            if path.is_file():
                name = path.relative_to(_ROOT).as_posix()
                files.append(File(name, str(_ROOT), config.site_dir, config.use_directory_urls))
    files.append(File.generated(config, "logo.svg", abs_src_path=str(_ROOT / _LOGO)))
    return files
