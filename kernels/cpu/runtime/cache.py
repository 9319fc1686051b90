"""Where compiled kernels are kept: on disk, by the types of their arguments and the processor that they are for.

Of many processes that need one, one compiles it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import inspect
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from llvmlite import binding as llvm
from numba.core import caching, config
from numba.core.runtime import _nrt_python

from minicaffe.kernels.cpu.runtime.kept import KeptLibrary, libraries_are

_PATIENCE = 120.0  # seconds to wait for another process; a kernel takes a few
_PAUSE = 0.005  # seconds between two attempts to lock


def _package_stamp() -> str:
    """Tells when any file of ``kernels/cpu`` has changed: by its content, since an image of a container, or a copy, may
    have other times.
    """
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root)} {len(content)}\0".encode() + content)
    return digest.hexdigest()


_STAMP = _package_stamp()


class _Locks(AbstractContextManager):
    """Locks of kernels that this process compiles, held until the end of the ``with`` block in which it got them.

    Each is a byte of a file in the cache's folder, locked for the process, so it goes with that, however it ends.  A
    kernel waits for those that it calls, never the other way round, so nobody waits in a circle.  Blocks are entered
    under Numba's compiler lock: one thread at a time.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._held: list[list[tuple[int, int]]] = []

    def __enter__(self) -> None:
        self._held.append([])

    def __exit__(self, *_: object) -> None:
        for file, place in self._held.pop():
            fcntl.lockf(file, fcntl.LOCK_UN, 1, place)

    def wait(self, folder: str, kernel: str, signature: Any) -> bool:
        """Lock what a kernel is compiled to for some types; whether another process had locked it, which may have kept
        it since.

        Where files cannot be locked, or somebody is stopped while it holds a lock, the same is compiled twice.
        """
        file = self._file(folder)
        place = int.from_bytes(hashlib.sha1(f"{kernel}{signature}".encode()).digest()[:7], "big")
        give_up = time.monotonic() + _PATIENCE
        waited = False
        while file >= 0 and time.monotonic() < give_up:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except (BlockingIOError, PermissionError):
                waited = True
                time.sleep(_PAUSE)
            except OSError:
                break
            else:
                self._held[-1].append((file, place))
                break
        return waited

    def _file(self, folder: str) -> int:
        """The file of locks, which stays open: to close one of it would release all; -1 if there is none."""
        if folder not in self._files:
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._files[folder] = os.open(os.path.join(folder, "compiling.lock"), flags, 0o666)
            except OSError:
                self._files[folder] = -1
        return self._files[folder]

    def _after_fork(self) -> None:
        """In the forked process: it holds none."""
        self._held = [[] for _ in self._held]


locks = _Locks()
os.register_at_fork(after_in_child=locks._after_fork)


def _nothing() -> bool:
    return False


miss: Callable[[], bool] = _nothing
"""Called when a kernel is not kept; whether to look again (``runtime.ahead``)."""


class CacheFile(caching.IndexDataCacheFile):
    """Numba's files of a kernel, but those of compiled code are named by what it is for, not numbered.

    Two processes that save at once take the same number.  Each then may run the other's code: for other types, or,
    where machines share the folder, for another processor.

    A damaged file, as after a power failure, is removed, and the kernel compiled again: code stands behind its digest,
    since zeros in the middle of it would run.  Where the disk is full nothing is kept.

    What is not in ``folder`` may be in one of the ``others``, which are only read.
    """

    def __init__(self, folder: str, name: str, stamp: Any, others: Iterable[str] = ()) -> None:
        super().__init__(folder, name, stamp)
        self._others = [CacheFile(other, name, stamp) for other in others]

    def holds(self, key: tuple) -> bool:
        """Whether there is an entry."""
        return key in self._load_index() or any(other.holds(key) for other in self._others)

    def load(self, key: tuple) -> Any:
        found = super().load(key)
        for other in self._others:
            if found is None:
                found = other.load(key)
        return found

    def save(self, key: tuple, data: Any) -> None:
        name = self._data_name_pattern.format(number=int(hashlib.sha1(repr(key).encode()).hexdigest(), 16))
        with contextlib.suppress(OSError):
            self._save_data(name, data)
            self._save_index(self._load_index() | {key: name})

    def _load_index(self) -> dict[tuple, str]:
        try:
            return super()._load_index()
        except OSError:  # it may be another user's, or too many files are open
            return {}
        except Exception:  # noqa: BLE001  (damaged pickles raise errors of any kind)
            _remove(self._index_path)
            return {}

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(content).digest() + content)

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            digest, content = file.read(hashlib.sha256().digest_size), file.read()
        if hashlib.sha256(content).digest() != digest:
            _remove(self._data_path(name))
            return None
        return pickle.loads(content)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


class _Unwritable(caching.InTreeCacheLocator):
    """The folder beside the source, for reading: where neither that nor the user's cache folder takes anything."""

    def ensure_cache_path(self) -> None:
        pass


class _Place(caching.CompileResultCacheImpl):
    _locator_classes = [*caching.CompileResultCacheImpl._locator_classes, _Unwritable]

    def rebuild(self, target: Any, payload: Any) -> Any:
        with libraries_are(KeptLibrary, target.codegen()):
            return super().rebuild(target, payload)


class Cache(caching.FunctionCache):
    """Numba's disk cache: beside the source or, if that is read-only, in the user's cache folder.

    What another user has put beside the source, or where NUMBA_CACHE_DIR points, is read also where it cannot be
    written: in a container, say, for whose image it was compiled.

    Code is kept by the types of its arguments and by the processor it is for: its name and features.  Numba compares
    only the file of ``function`` with the cache, but compiled code includes the kernels that it calls: here any change
    in ``kernels/cpu`` invalidates all of the cache.

    What is not there is compiled by whoever locks it first; others wait, and load it then.
    """

    _impl_class = _Place

    def __init__(self, function: Callable, stamp: str) -> None:
        super().__init__(function)
        locator, name = self._impl.locator, self._impl.filename_base
        self.keeps = not isinstance(locator, _Unwritable)
        """Whether there is a folder to keep code in."""
        stamps = locator.get_source_stamp(), _STAMP
        self._cache_file = CacheFile(self._cache_path, name, stamps, _unwritable_places(function, self._cache_path))
        self._stamp = stamp

    def holds(self, signature: Any, codegen: Any) -> bool:
        """Whether code for these types is kept."""
        return self._cache_file.holds(self._index_key(signature, codegen))

    def load_overload(self, signature: Any, target: Any) -> Any:
        # Numba refreshes ``target`` here, too: imports all that it can compile, for a quarter of a second
        _name_runtime()
        found = self._load_overload(signature, target)
        if found is None and self.keeps:
            if miss() or locks.wait(self._cache_path, self._impl.filename_base, signature):
                return self._load_overload(signature, target)
        return found

    def _load_overload(self, signature: Any, target: Any) -> Any:
        found = super()._load_overload(signature, target)
        if found is not None:  # Numba forgets it, and code that is linked with this one is to be kept with it, too
            found.library._reload_init.update(found.reload_init)
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        if self.keeps:
            with contextlib.suppress(OSError):  # the disk may be full by now, or the folder gone
                super().save_overload(signature, compiled)

    def _index_key(self, signature: Any, codegen: Any) -> tuple:
        # Numba would tell by the values closed over, but kernels among these are others in each process
        if self._stamp:
            return signature, codegen.magic_tuple(), self._stamp
        return super()._index_key(signature, codegen)


@functools.cache
def _name_runtime() -> None:
    """Tell LLVM where the functions of Numba's runtime are that kept code calls.

    Numba does so when it begins to compile, but compiles parts of that runtime then, for which LLVM's code generator is
    read into memory; in kept code these parts are there already.
    """
    for name, address in _nrt_python.c_helpers.items():
        llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def _unwritable_places(function: Callable, chosen: str) -> Iterator[str]:
    """The folders that Numba prefers to the chosen one: they cannot be written."""
    kinds = [caching.UserProvidedCacheLocator] if config.CACHE_DIR else []
    for kind in (*kinds, caching.InTreeCacheLocator):
        folder = kind(function, inspect.getfile(function)).get_cache_path()
        if folder == chosen:
            break
        yield folder


def cache(function: Callable, stamp: str = "") -> Any:
    """Where compiled code is kept; where no folder can be written, every process compiles anew what it cannot read."""
    try:
        return Cache(function, stamp)
    except RuntimeError:  # there is no source, by whose content Numba knows code
        return caching.NullCache()


def complaint() -> str:
    """Why code is not kept where it is wanted, what that means, and what to do; "" where nothing is wrong."""
    place = cache(_nothing)
    kept = getattr(place, "keeps", False)
    if config.CACHE_DIR:
        try:
            caching.UserProvidedCacheLocator(_nothing, __file__).ensure_cache_path()
            return ""
        except OSError as error:
            wrong = f"the folder of NUMBA_CACHE_DIR, {config.CACHE_DIR}, cannot be written ({error.strerror or error})"
    elif kept:
        return ""
    else:
        wrong = "neither the package's folder nor the user's cache folder can be written"
    outcome = f"kept elsewhere ({place.cache_path})" if kept else "not kept: every process compiles them anew"
    return f"{wrong}; kernels are {outcome}. Set NUMBA_CACHE_DIR to a folder that can be written"
