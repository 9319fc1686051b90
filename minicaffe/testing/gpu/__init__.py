"""``minicaffe gpu_check``: everything that can be told about a GPU and what minicaffe computes on it.

``parts``         the table of parts, each a module with a function ``checks(options)``;
``checks``        what a check is, and the options of a run;
``requirements``  which packages are there;
``child``         runs one part in a process of its own and writes a journal;
``runner``        starts the parts one after the other, ends those that hang, and goes on behind what crashed;
``report``        lines while it runs, the table at the end, JSON.

The parts: ``machine``, ``kernels`` (with ``cudnn``), ``training``, ``sanitizer``, and from a checkout
``tests/gpu_layers.py`` and ``benchmarks/gpu.py``.  ``target`` opens the GPU and measures time on it, ``profile`` that
of each kernel; ``warm`` compiles the CPU's kernels in the background.
"""
