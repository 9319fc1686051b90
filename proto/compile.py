"""Compile caffe.proto and what it imports to caffe.desc: ``python proto/compile.py`` (needs grpcio-tools, part of
``minicaffe[dev]``)."""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]


def compile_schema(folder: Path) -> None:
    """Write ``folder/caffe.desc``, the FileDescriptorSet of ``folder/caffe.proto`` and its imports."""
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={folder}",
            "--include_imports",
            f"--descriptor_set_out={folder / 'caffe.desc'}",
            "caffe.proto",
        ]
    )
    if status != 0:
        sys.exit(status)


if __name__ == "__main__":
    compile_schema(Path(__file__).resolve().parent)
