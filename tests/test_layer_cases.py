"""Every registered layer alone, by the table of ``layer_cases``: gradients, other sizes, in place, every backend,
documentation.

Its golden cases are in ``test_layers_golden``, what it refuses in ``test_layers_errors``.  A layer that is registered
without a case, an error or a docstring fails here.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil

import numpy as np
import pytest
from layer_cases import CASES
from layer_cases.case import Case
from layer_cases.checks import check_gradient, check_parity

from minicaffe import backend, testing
from minicaffe.errors import MinicaffeError, NetError
from minicaffe.layers import Layer
from minicaffe.layers.base import registry

CHECKS = {"gradient", "reshape", "in_place", "parity"}
BUILT_IN = sorted(
    (cls for cls in registry.values() if cls.__module__.startswith("minicaffe.")), key=lambda cls: cls.type
)
WITHOUT_TRUE_GRADIENT = {"RegionLoss", "Yolov3", "Detection", "DetectionLoss", "DetectionGroupLoss", "MalisLoss"}
"""Losses whose backward pass gives something else by definition; their golden cases, or an oracle, hold it."""
TYPES = [cls.type for cls in BUILT_IN] + ["Python"]


def applied(check: str):
    """The cases that a check applies to."""
    assert check in CHECKS
    return pytest.mark.parametrize(
        "case", [case for case in CASES if check not in case.why_not], ids=lambda case: case.name
    )


def same(a: testing.Result, b: testing.Result, **tolerance: float) -> None:
    """Both results hold the same numbers."""
    for part in ("tops", "bottom_diffs", "param_diffs", "params"):
        for i, (x, y) in enumerate(zip(getattr(a, part), getattr(b, part), strict=True)):
            if x is None or y is None:
                assert x is y
            else:
                np.testing.assert_allclose(x, y, err_msg=f"{part} {i}", **{"rtol": 1e-6, "atol": 1e-6, **tolerance})


@applied("gradient")
def test_gradients_are_those_of_the_forward_pass(case: Case, tmp_path):
    check_gradient(case, tmp_path)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.sizes and "reshape" not in case.why_not], ids=lambda case: case.name
)
def test_a_layer_takes_other_sizes(case: Case, tmp_path):
    how = case.how(tmp_path)
    rig = testing.Rig(case.type, case.draw(), seed=1, **how)
    rig.fill_zero_params(np.random.default_rng(3))
    params = [blob.data.copy() for blob in rig.layer.blobs]
    rig.forward()
    for shapes in case.sizes:
        bottoms = case.draw(shapes)
        fresh = testing.Rig(case.type, bottoms, **{**how, "params": params}, seed=1)
        rig.set_params(params)
        rig.feed(bottoms)
        for one in (rig, fresh):
            if callable(getattr(one.layer, "reset", None)):
                one.layer.reset()
            backend.random.seed(5)
            one.forward()
            if "gradient" not in case.why_not:
                one.backward()
        same(rig.result(), fresh.result())


@applied("in_place")
def test_in_place_is_as_good_as_elsewhere_or_refused(case: Case, tmp_path):
    bottoms, how = case.draw(), case.how(tmp_path)
    rig = testing.Rig(case.type, bottoms, seed=1, backward=False, **how)
    rig.net.close()
    if not (rig.bottom and rig.top) or rig.layer.type == "Python":
        return
    allowed = rig.layer.in_place
    if allowed != "never":
        elsewhere = testing.run(case.type, bottoms, seed=1, backward=False, **how)
        same(testing.run(case.type, bottoms, seed=1, backward=False, in_place=True, **how), elsewhere)
    if allowed == "always":
        same(
            testing.run(case.type, bottoms, seed=1, in_place=True, **how),
            testing.run(case.type, bottoms, seed=1, **how),
        )
        if any(rig.layer.param_propagate_down) or any(testing.Rig(case.type, bottoms, **how).wanted):
            testing.check_gradient(case.type, bottoms, in_place=True, **how, **case.gradient)
    else:
        with pytest.raises(NetError, match="cannot work in place"):
            testing.run(case.type, bottoms, in_place=True, **how)


@pytest.fixture(scope="module")
def strict():
    """The GPU path on the stand-in for CuPy."""
    if shutil.which("g++") is None:
        pytest.skip("g++ builds the CUDA kernels for the CPU")
    from strict_gpu import StrictBackend

    return StrictBackend()


@applied("parity")
def test_the_gpu_path_gives_the_numbers_of_the_cpu(case: Case, strict, tmp_path):
    check_parity(case, tmp_path, [backend.host_backend(), strict])


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.bottoms])
def test_an_empty_batch_gives_empty_tops_or_a_reason(case: Case, tmp_path):
    """As behind a Filter that keeps nothing."""
    bottoms = [x[:0] if x.ndim else x for x in case.draw()]
    how = {name: value for name, value in case.how(tmp_path).items() if name != "params"}
    with contextlib.suppress(MinicaffeError):
        result = testing.run(case.type, bottoms, backward="gradient" not in case.why_not, **how)
        assert all(np.isfinite(top).all() for top in result.tops)


# --- every layer has all of this
# ---------------------------------------------------------------------------------------


def test_every_type_has_cases():
    assert {case.type for case in CASES} == set(TYPES)
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_checked(kind):
    """A reason may excuse a case from a check, but not a type whose facts say that the check applies."""
    cases = [case for case in CASES if case.type == kind]
    takes_bottoms = any(case.bottoms for case in cases)
    assert any(case.sizes for case in cases) or not takes_bottoms, "reshape"
    for check in CHECKS:
        assert all(case.why_not.get(check, "reason").strip() for case in cases)
    for check in ("gradient", "in_place") if kind not in WITHOUT_TRUE_GRADIENT else ("in_place",):
        assert any(check not in case.why_not for case in cases), check
    assert any("parity" not in case.why_not for case in cases) or kind == "MemoryData"


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.type)
def test_every_layer_is_documented(cls):
    """Its own docstring, with a formula if it computes; in it or in its family's, the shapes of bottoms and tops."""
    own = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    assert len(own.split()) >= 4 and ("``" in own or ".. math::" in own)
    family = " ".join(c.__doc__ or "" for c in cls.__mro__[: cls.__mro__.index(Layer)]).lower()
    if cls.bottoms != 0:
        assert "bottom" in family or "input" in family
    if cls.tops != 0:
        assert "top" in family or "output" in family
