"""``python -m minicaffe``: the command line; or a script, with ``import caffe`` meaning minicaffe in it."""

from __future__ import annotations

import os
import runpy
import sys

from minicaffe.tools import cli


def main(args: list[str]) -> int:
    """Run ``script.py args``, or a command of ``minicaffe``; its exit status."""
    if not args or not (args[0].endswith(".py") or os.path.isfile(args[0]) and args[0] not in cli.COMMANDS):
        sys.argv[0] = "minicaffe"
        return cli.main()
    run_script(args[0], args[1:])
    return 0


def run_script(path: str, args: list[str]) -> None:
    """Run a script as ``python path args`` does, but that ``import caffe`` means minicaffe."""
    from minicaffe.as_caffe import install_as_caffe

    if not os.path.isfile(path):
        sys.exit(f"error: no script {path} (the working directory is {os.getcwd()})")
    install_as_caffe()
    sys.argv = [path, *args]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    runpy.run_path(path, run_name="__main__")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
