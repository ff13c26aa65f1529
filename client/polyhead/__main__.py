"""``python -m polyhead``: the `polyhead` command."""

import sys

from polyhead.cli import main

sys.exit(main())
