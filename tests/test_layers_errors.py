"""Wrong parameters and shapes: an error that names the layer, the field, what was found and what is allowed."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

import numpy as np
import pytest
from layer_cases import CASES
from layer_errors import ROWS
from layer_errors.row import Row

from minicaffe import testing
from minicaffe.errors import LayerError, MinicaffeError
from minicaffe.layers import Layer
from minicaffe.layers.base import registry

BUILT_IN = sorted(
    (cls for cls in registry.values() if cls.__module__.startswith("minicaffe.")), key=lambda cls: cls.type
)
FIRST_CASE = {case.type: case for case in reversed(CASES)}

ELSEWHERE = {
    ("HDF5Data", None): "files that are damaged or do not fit together: test_layers_data",
    ("MemoryData", "batch_size"): "what reset is given: test_layers_data",
    ("AnnotatedData", "yolo_data_type"): "it needs a database: test_annotated_data",
    **{(kind, "top"): "it needs a file: test_detection_data" for kind in ("DetectionData", "EvalData", "ImageGtData")},
}
NEVER_ASKED = {
    (kind, "axis"): "about_axis of the base is not called: no field says which axis the classes are on"
    for kind in (
        *("GeneralContrastiveLoss", "GeneralTripletLoss", "HingeLoss", "MultinomialLogisticLoss", "NCALoss"),
        *("ConfidencePenaltyLoss", "SigmoidCrossEntropyLoss"),
    )
} | {("ConvolutionDepthwise", field): "both are set to the channels" for field in ("group", "num_output")}
NEVER_ASKED[("Pooling3D", "top")] = "it makes no mask"
NEVER_ASKED |= {("EltwiseAffine", field): "the factors are always those of channels" for field in ("axis", "num_axes")}


def provoke(row: Row, folder) -> None:
    """Do what the row says is refused."""
    fields = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in row.fields.items()}
    bottoms = [np.zeros(shape) for shape in row.shapes]
    rig = testing.Rig(row.type, bottoms, tops=row.tops, phase=row.phase, backward=row.backward, **fields)
    if row.later:
        bottoms = [np.zeros(shape) for shape in row.later]
    if row.bad:
        bottoms[row.bad[0]] = np.array(row.bad[1])
    rig.feed(bottoms)
    rig.forward()
    if row.backward:
        rig.backward()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_does_not_fit_is_named(row, tmp_path):
    with pytest.raises(MinicaffeError, match=row.problem) as caught:
        provoke(row, tmp_path)
    message = str(caught.value)
    assert f"layer '{row.type}" in message
    if row.field is not None:
        assert re.search(rf"[, .]{row.field}: ", message)


def counts(declared) -> tuple[int, int | None]:
    return (declared, declared) if isinstance(declared, int) else declared


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.type)
def test_bottoms_and_tops_are_counted(cls, tmp_path):
    case = FIRST_CASE[cls.type]
    how = case.how(tmp_path)
    rig = testing.Rig(cls.type, case.draw(), **how)
    rig.net.close()
    bottoms = case.draw()
    for what, declared, found in (("bottom", rig.layer.bottoms, len(bottoms)), ("top", rig.layer.tops, len(rig.top))):
        least, most = counts(declared)
        wrong = [least - 1] if least > 0 and not (what == "top" and rig.layer.auto_tops) else []
        for count in [*wrong, *([] if most is None else [most + 1])]:
            given = [*bottoms, *[np.zeros(2)] * (count - found)][:count] if what == "bottom" else bottoms
            tops = [f"y{i}" for i in range(count)] if what == "top" else len(rig.top)
            with pytest.raises(
                LayerError, match=rf"(takes|produces) (at least |at most )?\d+ {what} blob.*; found {count}"
            ):
                testing.Rig(cls.type, given, **{**how, "tops": tops})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_gradient_that_does_not_exist(case, tmp_path):
    how = case.how(tmp_path)
    rig = testing.Rig(case.type, case.draw(), **how)
    rig.net.close()
    for i in range(len(rig.bottom)):
        if rig.layer.differentiable is not None and i not in rig.layer.differentiable:
            asked = [k == i for k in range(len(rig.bottom))]
            with pytest.raises(LayerError, match=f"cannot backpropagate to bottom {i}"):
                testing.run(case.type, case.draw(), propagate_down=asked, **how)


# --- every check of every layer has a row
# -------------------------------------------------------------------------------

PLACE_OF_FIELD = {"require": 2, "error": 1, "data_error": 1, "axis_of": 2}


def checked_fields(cls) -> set[str | None]:
    """The fields that a layer and its family name in ``require``, ``error`` and the like; None for a check without one.

    Fields named by an expression are left out.
    """
    found: set[str | None] = set()
    for owner in cls.__mro__[: cls.__mro__.index(Layer)]:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(owner)))):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PLACE_OF_FIELD
            ):
                continue
            place = PLACE_OF_FIELD[node.func.attr]
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            field = named.get("field") or (node.args[place] if len(node.args) > place else None)
            if field is None:
                found.add("axis" if node.func.attr == "axis_of" else None)
            elif isinstance(field, ast.Constant):
                found.add(field.value)
    return found


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.type)
def test_every_check_has_a_row(cls):
    tried = {row.field for row in ROWS if row.type == cls.type}
    declared = {field for kind, field in {**ELSEWHERE, **NEVER_ASKED} if kind == cls.type}
    missing = checked_fields(cls) - tried - declared
    assert not missing, f"{cls.type} checks {missing}: add rows to tests/layer_errors"
