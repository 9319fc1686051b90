"""Caffe's protocol-buffer messages: ``proto.NetParameter()``, ``proto.PoolingParameter.MAX``, ``proto.TRAIN``.

Submodules: `caffe_pb2` (the messages), `text` (prototxt), `locations` (where in a prototxt a layer stands), `upgrade`
(older formats), `files` (what a user's files hold), `blobs` (NumPy arrays), `atomic` (writing), `wire` (bytes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minicaffe.proto import caffe_pb2

messages = caffe_pb2.MESSAGES

globals().update(caffe_pb2.NAMES)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
