"""How each type of layer is said in ONNX, by family; importing this package registers all of them."""

from minicaffe.onnx.exporters import (
    choosing,
    detection,
    fork_losses,
    joining,
    linear,
    losses,
    measures,
    neurons,
    normalising,
    recurrent,
    regions,
    resampling,
    sequences,
    shapes,
    windows,
)

__all__ = [
    "choosing",
    "detection",
    "fork_losses",
    "joining",
    "linear",
    "losses",
    "measures",
    "neurons",
    "normalising",
    "recurrent",
    "regions",
    "resampling",
    "sequences",
    "shapes",
    "windows",
]
