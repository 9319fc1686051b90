"""Vector code that Numba does not generate by itself."""
