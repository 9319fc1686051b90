"""What is checked of a case on whatever backend is current; AssertionError says what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layer_cases.case import Case
from minicaffe import testing
from minicaffe.backend import Backend
from minicaffe.errors import LayerError


def check_gradient(case: Case, folder: Path) -> None:
    """Gradients are those of the forward pass; a layer without any says so."""
    bottoms, how = case.draw(), case.how(folder)
    rig = testing.Rig(case.type, bottoms, **how)
    rig.net.close()
    if any(rig.wanted) or rig.learned:
        assert testing.check_gradient(case.type, bottoms, **how, **case.gradient) <= 1e-6
        return
    try:
        testing.check_gradient(case.type, bottoms, **how)
    except LayerError as error:
        assert "nothing to check" in str(error)
    else:
        raise AssertionError("a layer without gradients did not say that there is nothing to check")


def check_parity(case: Case, folder: Path, backends: Sequence[Backend]) -> None:
    """The same numbers on all backends."""
    backward = "gradient" not in case.why_not
    testing.check_parity(case.type, case.draw(), backward=backward, backends=backends, **case.how(folder))
