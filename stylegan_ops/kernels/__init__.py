"""Kernels equal to the torch definitions: compiled at first use, never required.

They are for CPUs: a GPU runs the definitions. `build` compiles `cpu.cpp`, `winograd.cpp` and
`panels.cpp`, `choice` says which implementation a call takes, `native` calls them, and one file
each registers them as torch operations: `bias_act`, `upfirdn2d`, `filtered_lrelu`, `modulation`,
`winograd`. These are imported, and a compiler started, when a kernel is first wanted.
"""
