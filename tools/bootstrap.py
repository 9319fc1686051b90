"""Set up minicaffe in ``.venv`` and run its example or its tests; needs only Python 3.10 with pip.

``python3 tools/bootstrap.py example`` and ``python3 tools/bootstrap.py test`` are the two commands of the README.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = [
    ["minicaffe", "data", "siamese", "digits"],
    ["minicaffe", "train", "--solver", "siamese/digits_solver.prototxt"],
]


def main() -> None:
    if sys.version_info < (3, 10):
        sys.exit(f"minicaffe needs Python 3.10 or newer; this is {sys.version.split()[0]} ({sys.executable})")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["install", "example", "test"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to pytest (test)")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where the environment goes (default: .venv)")
    options = parser.parse_args()
    folder = options.venv.resolve()
    extra = {"install": "example", "example": "example", "test": "test"}[options.what]
    install(folder, extra)
    if options.what == "example":
        for command in EXAMPLE:
            print("$", " ".join(command), flush=True)
            run([folder / "bin" / command[0], *command[1:]])
    elif options.what == "test":
        shared_out = ["-n", min(os.cpu_count() or 1, 4), "--dist", "loadfile"]
        run([folder / "bin" / "python", "-m", "pytest", *shared_out, *options.arguments], cwd=ROOT)


def install(folder: Path, extra: str) -> None:
    """Make the environment unless it is there, and install this checkout into it with the extra's packages."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making an environment in {folder}", flush=True)
        make_environment(folder)
    print(f"installing minicaffe[{extra}]", flush=True)
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", f"{ROOT}[{extra}]"])


def make_environment(folder: Path) -> None:
    """Use venv, or, where a distribution leaves that out, virtualenv fetched by pip into a temporary folder."""
    if (
        subprocess.run(
            [sys.executable, "-m", "venv", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
        == 0
    ):
        return
    print(f"this Python ({sysconfig.get_platform()}) comes without venv: fetching virtualenv", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        run([sys.executable, "-m", "pip", "install", "--quiet", "--target", temporary, "virtualenv"])
        run(
            [sys.executable, "-m", "virtualenv", "--quiet", "--clear", folder],
            env={**os.environ, "PYTHONPATH": temporary},
        )


def run(command: list, **options) -> None:
    """Run a command; end with its status if it fails."""
    status = subprocess.run([str(part) for part in command], **options).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
