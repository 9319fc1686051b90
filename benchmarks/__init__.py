"""How fast minicaffe is, beside PyTorch, Caffe and what the machine can do: ``python -m benchmarks`` from the checkout.

A module a family (kernels, layers, solvers, data, nets, process) lists its cases; ``harness`` runs them, ``report``
prints and keeps the figures.  ``gpu`` is a part of ``minicaffe gpu_check``.
"""
