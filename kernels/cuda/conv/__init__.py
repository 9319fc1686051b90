"""Convolution on a GPU: an algorithm is selected for each problem, by its shape."""
