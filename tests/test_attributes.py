"""Every attribute of every layer, set to what makes sense and to what does not, after the layer has run.

Either a MinicaffeError says what is wrong, and all is as it was; or the next passes give what a net gives whose
definition says so.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from layer_cases import CASES
from layer_cases.case import Case

from minicaffe import backend, proto, testing
from minicaffe.errors import LayerError, MinicaffeError
from minicaffe.proto import text

FIRST_CASE = {case.type: case for case in reversed(CASES)}
CHOSEN = [
    case
    for case in CASES
    if case.type != "Python" and (case is FIRST_CASE[case.type] or case.type in ("Pooling", "Eltwise"))
]
NUMBERS = [0, 1, 2, 3, -1, 2**31 - 1, 2**31, 10**12, 10**400, 0.5, 1.5, -2.5, 1e300, math.inf, -math.inf, math.nan]
OTHERS = [True, "a", b"\xff", "\ud800", "MAX", "SUM", None, [], [1], [2, 3], (1.5, "a"), [None], {}, object(), 1j,
          np.float32(0.5), np.int64(2), np.array(2), np.array([1.0, 2.0]), proto.FillerParameter()]  # fmt: skip


def outcome(rig: testing.Rig, case: Case, params: list) -> testing.Result | str:
    """What three passes give, as whatever is captured is replayed in the last; of an error the kind."""
    try:
        rig.set_params(params[: len(rig.layer.blobs)])
        rig.feed(case.draw())
        for seed in (1, 2, 3):
            backend.random.seed(seed)
            rig.forward()
            if "gradient" not in case.why_not:
                rig.backward()
        return rig.result()
    except MinicaffeError as error:
        return type(error).__name__


def agree(found: testing.Result | str, expected: testing.Result | str) -> bool:
    if isinstance(found, str) or isinstance(expected, str):
        return isinstance(found, str) and isinstance(expected, str)
    pairs = [
        (x, y)
        for part in ("tops", "bottom_diffs", "param_diffs", "params")
        for x, y in zip(getattr(found, part), getattr(expected, part), strict=False)
    ]
    return all(
        x is y is None or (x is not None and y is not None and np.array_equal(x, y, equal_nan=True)) for x, y in pairs
    )


def begun(case: Case, tmp_path) -> tuple[testing.Rig, list]:
    """A layer that has run, and its params."""
    rig = testing.Rig(case.type, case.draw(), seed=1, **case.how(tmp_path))
    rig.fill_zero_params(np.random.default_rng(3))
    params = [blob.data.copy() for blob in rig.layer.blobs]
    outcome(rig, case, params)
    return rig, params


def defined_anew(rig: testing.Rig, case: Case, params: list) -> testing.Result | str:
    """What a net gives whose definition is that of the layer as it is now."""
    definition = text.format(proto.NetParameter(layer=[rig.layer.layer_param]))
    try:
        fresh = testing.Rig(definition, case.draw(), phase=rig.layer.phase)
    except MinicaffeError as error:
        return type(error).__name__
    return outcome(fresh, case, params)


def given(layer) -> dict[str, str]:
    """The options that the definition gives."""
    messages = {id(message): message for _, message in layer._options.values()}.values()
    return {field.name: repr(value) for message in messages for field, value in message.ListFields() if repr(value)}


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_options(case, tmp_path):
    rig, params = begun(case, tmp_path)
    refused = accepted = 0
    for name in sorted(rig.layer._options):
        for value in (*NUMBERS, *OTHERS):
            before = given(rig.layer)
            attribute, present = getattr(rig.layer, name), name in given(rig.layer)
            try:
                setattr(rig.layer, name, value)
            except MinicaffeError as error:
                refused += 1
                assert f"layer '{rig.layer.name}'" in str(error)
                assert given(rig.layer) == before and repr(getattr(rig.layer, name)) == repr(attribute)
                continue
            accepted += 1
            if rig.layer.fixed is None:  # it was so before
                assert getattr(rig.layer, name) == attribute
                continue
            found, expected = outcome(rig, case, params), defined_anew(rig, case, params)
            assert agree(found, expected), (name, value, found, expected)
            setattr(rig.layer, name, attribute if present else None)
    assert refused and (accepted or rig.layer.fixed is None)


BUILT_IN = [case for case in FIRST_CASE.values() if case.type != "Python"]


@pytest.mark.parametrize("case", BUILT_IN, ids=lambda case: case.name)
def test_what_is_no_option(case, tmp_path):
    """A layer's own findings, what the engine keeps in it, and methods."""
    rig, params = begun(case, tmp_path)
    state = rig.net.state()
    expected = outcome(rig, case, params)
    layer = rig.layer
    names = [name for name in dir(layer) if not name.startswith("_") and name not in layer._options]
    assert {"blobs", "name", "forward", "loss_weights"} < {*names}
    for name in (*names, "anything"):
        before = None if name == "coefficients" else getattr(layer, name, None)
        for value in ("a", None, 0, -1, math.nan, [math.nan], object(), {}):
            try:
                setattr(layer, name, value)
            except MinicaffeError as error:
                assert f"layer '{layer.name}'" in str(error) or "learnable blobs" in str(error)
            else:
                assert name in ("coefficients", "loss_weights", "param_propagate_down") and value in (None, [math.nan])
                setattr(layer, name, before)
        if name in vars(layer):
            with pytest.raises(LayerError, match=f"its attribute '{name}' cannot be deleted"):
                delattr(layer, name)
    rig.net.restore(state)
    assert agree(outcome(rig, case, params), expected)
