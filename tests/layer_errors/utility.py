"""Layers that move, pick, repeat or reduce."""

from __future__ import annotations

from layer_errors.row import row

ITEMS = (4, 3)

ROWS = [
    row("Slice", "axis", r"either axis or slice_dim, not both", (2, 6), axis=1, slice_dim=1, tops=2),
    row("Slice", "axis", r"axis 2 out of range for 2-D", (2, 6), axis=2, tops=2),
    row("Slice", "slice_dim", r"axis 2 out of range for 2-D", (2, 6), slice_dim=2, tops=2),
    row("Slice", "slice_point", r"3 tops need 2 slice points; found \[1\]", (2, 6), slice_point=1, tops=3),
    row("Slice", "slice_point", r"rise strictly between 0 and the size of the axis, 6; found \[3, 3\]", (2, 6), slice_point=[3, 3], tops=3),
    row("Slice", "slice_point", r"rise strictly .*found \[6\]", (2, 6), slice_point=6, tops=2),
    row("Slice", "slice_point", r"4 tops must divide the axis' size 6", (2, 6), tops=4),
    row("Concat", "axis", r"either axis or concat_dim, not both", (2, 3), (2, 3), axis=1, concat_dim=1),
    row("Concat", "axis", r"axis -3 out of range for 2-D", (2, 3), (2, 3), axis=-3),
    row("Concat", "concat_dim", r"axis 2 out of range for 2-D", (2, 3), (2, 3), concat_dim=2),
    row("Concat", None, r"same shape, except along axis 1; found 2 3 .*3 3", (2, 3), (3, 3)),
    row("Concat", None, r"same shape, except along axis 1; found 2 3 .*2 3 1", (2, 3), (2, 3, 1)),
    row("Flatten", "axis", r"axis 2 out of range for 2-D", (2, 3), axis=2),
    row("Flatten", "end_axis", r"axis 2 out of range for 2-D", (2, 3), end_axis=2),
    row("Flatten", "end_axis", r"must not come before axis 2; found 0", (2, 3, 4), axis=2, end_axis=0),
    row("Reshape", "axis", r"axis 3 out of range for 2-D", (2, 3), axis=3),
    row("Reshape", "axis", r"axis -4 out of range for 2-D", (2, 3), axis=-4),
    row("Reshape", "num_axes", r"must be -1 or more; found -2", (2, 3), num_axes=-2),
    row("Reshape", "num_axes", r"axis 1 and num_axes 2 go beyond", (2, 3), axis=1, num_axes=2),
    row("Reshape", "shape", r"at most one dimension can be -1; found \[-1, -1\]", (2, 3), shape={"dim": [-1, -1]}),
    row("Reshape", "shape", r"must be -1 or more; found \[-2\]", (2, 3), shape={"dim": [-2]}),
    row("Reshape", "shape", r"copies axis 2, which 2 3 .* lacks", (2, 3), shape={"dim": [2, 3, 0]}),
    row("Reshape", "shape", r"bottom count 6 is no multiple of the other dimensions \(4\)", (2, 3), shape={"dim": [4, -1]}),
    row("Reshape", "shape", r"output count must match input count 6; found shape \[5\]", (2, 3), shape={"dim": [5]}),
    row("Crop", "axis", r"axis 4 out of range for 4-D", (2, 3, 4, 5), (2, 3, 4, 5), axis=4),
    row("Crop", "offset", r"2 cropped axes; found \[1, 2, 3\]", (2, 3, 4, 5), (2, 3, 4, 5), offset=[1, 2, 3]),
    row("Crop", "offset", r"goes beyond the input 2 3 4 5", (2, 3, 4, 5), (1, 1, 2, 2), offset=3),
    row("Crop", None, r"as many axes as the input; found 4 5", (2, 3, 4, 5), (4, 5)),
    row("Tile", "tiles", r"must be given, and positive; found 0", (2, 3)),
    row("Tile", "axis", r"axis 2 out of range for 2-D", (2, 3), tiles=2, axis=2),
    row("Filter", None, r"the selector, \(N, 1, …\); found 4 3 .*4 2", ITEMS, (4, 2)),
    row("Filter", None, r"all bottoms must be \(N, …\)", ITEMS, (5,)),
    row("Filter", "top", r"3 bottoms need 2 tops; found 1", ITEMS, ITEMS, (4,)),
    row("BatchReindex", None, r"indices must have 1 axis; found 2 2", (2, 3), (2, 2)),
    row("BatchReindex", None, r"must have an axis of items", (), (2,)),
    row("BatchReindex", None, r"value number 1 .* 0 \.\. 1, the items of the first bottom", (2, 3), (2,), bad=(1, [0, -1])),
    row("Reduction", "axis", r"axis 2 out of range", (2, 3), axis=2),
    row("ArgMax", "top_k", r"must lie in 1 \.\. 60.*found 61", (2, 3, 4, 5), top_k=61),
    row("ArgMax", "top_k", r"must lie in 1 \.\. 3, .*found 4", (2, 3), top_k=4, axis=1),
    row("ArgMax", "top_k", r"must lie in 1 \.\. 3, .*found 0", (2, 3), top_k=0),
    row("ArgMax", "axis", r"axis 2 out of range for 2-D", (2, 3), axis=2),
]
