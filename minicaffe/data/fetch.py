"""Download a file from the first mirror that has it, going on where an interrupted transfer stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minicaffe import compat
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)

_TRIES = 5  # of one mirror, as long as each brings something new


def download(urls: Sequence[str], path: Path, check: Callable[[Path], None]) -> None:
    """Put at ``path`` the file that all ``urls`` hold; ``check(file)`` raises DataError for a wrong one.

    What has arrived is kept in ``path`` + ``.part`` and completed by the next try, mirror or call (HTTP Range); only a
    checked file gets the name ``path``. Raises DataError, telling what each mirror answered.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"folder {path.parent.absolute()}: cannot be created ({error.strerror})") from error
    problems = []
    for url in urls:
        problem = _transfer(url, part)
        if problem is None:
            try:
                check(part)
            except DataError as error:
                problem = str(error)
                part.unlink()
            else:
                os.replace(part, path)
                return
        problems.append(f"\n  {url}: {problem}")
        _log.warning("%s: %s", url, problem)
    raise DataError(f"{path.name} could not be downloaded to {path.parent.absolute()}:{''.join(problems)}")


def _transfer(url: str, part: Path) -> str | None:
    """Bring the rest of a file; say what went wrong, or None."""
    requests = compat.require("requests")
    for _ in range(_TRIES):
        before = _size(part)
        try:
            _receive(url, part, before)
            return None
        except requests.HTTPError as error:
            problem = str(error)
            if error.response.status_code == 416:  # nothing beyond what is here already: it is not this file's start
                part.unlink()
        except OSError as error:  # a failed request, which is one too, or a full disk
            problem = str(error)
        if _size(part) == before:
            break
    return problem


def _receive(url: str, part: Path, start: int) -> None:
    """Append what follows byte ``start`` to ``part``; a server that cannot do that sends everything anew."""
    _log.info("Downloading %s%s", url, f" from byte {start}" if start else "")
    with open(part, "ab") as stream:

        def begin(response: Any, **_: Any) -> None:
            if response.status_code == 200:
                stream.truncate(0)

        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        downloader = compat.require("pooch").HTTPDownloader(headers=headers, hooks={"response": begin})
        downloader(url, stream, None)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
