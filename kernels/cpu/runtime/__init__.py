"""How kernels are compiled, launched on threads, and captured to be launched again."""
