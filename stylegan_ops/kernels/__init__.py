"""Kernels equal to the torch definitions: compiled at first use, never required.

`arithmetic.h` is the arithmetic that GPU (`cuda.cu`) and CPU (`cpu.cpp`) share; `winograd.cpp`,
`panels.cpp` and `threads.h` are for CPUs only. `build` compiles them, `choice` says which
implementation a call takes, `native` calls them, and one file each registers them as torch
operations: `bias_act`, `upfirdn2d`, `filtered_lrelu`, `modulation`, `winograd`. These are imported,
and a compiler started, when a kernel is first wanted.
"""
