"""Boxes in images: overlaps, codes relative to prior boxes, matching with ground truth, suppression, average precision.

A box is four numbers in a row: xmin, ymin, xmax, ymax, mostly relative to the image, so that (0, 0) is its upper left
corner and (1, 1) its lower right one.  Everything here works on NumPy arrays on the host: how many boxes are left is
known only once their values are.
"""
