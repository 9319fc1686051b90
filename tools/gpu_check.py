"""Check a GPU from a checkout that is not installed: ``python3 tools/gpu_check.py``, with the flags of
``minicaffe gpu_check``.  The parts of a check are started through this file, too.

Nothing but Python's own library is imported before it is known what else is there.
"""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Run the command, or the part that a runner asks for; the exit status."""
    _make_importable()
    from minicaffe.testing.gpu import requirements

    if arguments[:1] == ["--child"]:
        from minicaffe.testing.gpu import child

        return child.main(arguments[1])
    lines, _ = requirements.lacking()
    if sys.version_info < requirements.PYTHON or requirements.missing(requirements.ENGINE):
        print("this cannot be run without:", *lines, sep="\n  ", file=sys.stderr)
        return 1
    from minicaffe.tools import cli

    return cli.main(["gpu_check", *arguments])


def _make_importable() -> None:
    """Let ``import minicaffe`` find the packages of a checkout, where they lie side by side."""
    # this folder holds modules that are named like Python's own
    sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != _HERE]
    root = _HERE.parent
    if (root / "minicaffe" / "net.py").exists():
        sys.path.insert(0, str(root))
        import minicaffe

        minicaffe.__path__.append(str(root))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
