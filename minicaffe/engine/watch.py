"""Noticing that somebody wrote to params from which others were made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from minicaffe.blob import Blob, Storage


class _Mark(NamedTuple):
    """Where a value was, and how often its memory had been handed out."""

    storage: Storage
    offset: int
    handed_out: int


class Watch:
    """The values of some blobs, since ``renew``.

    Whoever asks a blob for its array may write to it, then or as long as the array lives.  So a value counts as another
    one if its memory was handed out since; while somebody still has an array in it, its contents are compared.
    """

    def __init__(self, blobs: Sequence[Blob]) -> None:
        self._blobs = blobs
        self._marks: list[_Mark] = []
        self._digests: list[bytes | None] = []
        self._held = False

    def changed(self) -> bool:
        """Whether one may have another value than at the last ``renew``."""
        marks = [self._mark(blob) for blob in self._blobs]
        if marks == self._marks and not self._held:
            return False
        changed = False
        for blob, mark, before, digest in zip(self._blobs, marks, self._marks, self._digests, strict=True):
            if digest is None:
                changed |= mark != before
            else:
                changed |= digest != _digest(blob)
        if not changed:
            self.renew()
        return changed

    def renew(self) -> None:
        """Take the values as they are now."""
        for blob in self._blobs:
            blob.forget_views()
        self._marks = [self._mark(blob) for blob in self._blobs]
        held = [blob.data_storage.is_held for blob in self._blobs]
        self._digests = [_digest(blob) if is_held else None for blob, is_held in zip(self._blobs, held, strict=True)]
        self._held = any(held)

    @staticmethod
    def _mark(blob: Blob) -> _Mark:
        return _Mark(blob.data_storage, blob.data_offset, blob.data_storage.handed_out)


def _digest(blob: Blob) -> bytes:
    return hashlib.blake2b(blob.peek_data().data, digest_size=16).digest()
