"""Noticing that somebody wrote to params from which others were made."""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe.backend import generation
from minicaffe.blob import Blob
from minicaffe.storage import Storage, digest_of


class Watch:
    """The values of some blobs, since ``renew``.

    Whoever asks a blob for its array may write to it, then or as long as the array lives.  So a value counts as another
    one if its memory was handed out since; while somebody still has an array in it, its contents are compared.
    """

    def __init__(self, blobs: Sequence[Blob]) -> None:
        self._blobs = blobs
        self._generation = -1
        self._storages: list[Storage] = []
        self._offsets: list[int] = []
        self._handed_out: list[int] = []
        self._digests: list[bytes | None] = []
        self._held = False

    def changed(self) -> bool:
        """Whether one may have another value than at the last ``renew``."""
        same_places = self._generation == generation.current() or self._same_places()
        if same_places and not self._held and self._handed_out == [s.handed_out for s in self._storages]:
            self._generation = generation.current()
            return False
        if not same_places:
            return True
        for blob, before, digest in zip(self._blobs, self._handed_out, self._digests, strict=True):
            if blob.data_storage.handed_out != before if digest is None else digest != _digest(blob):
                return True
        self.renew()
        return False

    def renew(self) -> None:
        """Take the values as they are now."""
        for blob in self._blobs:
            blob.forget_views()
        self._generation = generation.current()
        self._storages = [blob.data_storage for blob in self._blobs]
        self._offsets = [blob.data_offset for blob in self._blobs]
        held = [storage.is_held for storage in self._storages]
        self._digests = [_digest(blob) if is_held else None for blob, is_held in zip(self._blobs, held, strict=True)]
        self._held = any(held)
        self.excuse()

    def excuse(self) -> None:
        """Nobody who was given the memory until now writes to it, beyond what ``renew`` knows of."""
        self._handed_out = [storage.handed_out for storage in self._storages]

    def _same_places(self) -> bool:
        """Whether all values are where they were."""
        return all(
            blob.data_storage is storage and blob.data_offset == offset
            for blob, storage, offset in zip(self._blobs, self._storages, self._offsets, strict=True)
        )


def _digest(blob: Blob) -> bytes:
    return digest_of(blob.peek_data())
