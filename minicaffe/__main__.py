"""``python -m minicaffe``: the command line."""

from __future__ import annotations

import sys

from minicaffe.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
