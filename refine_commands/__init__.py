"""The commands of refine.py, one file each, and what they share; they parse, wire and call.

gan, report, demo ...    a click command each, of the file's name
journey                  what `gan` and `demo` do: check, refine, compare, report
recipes                  methods by name, their knobs for a GAN, presets
device, progress, provenance    where to compute, what to show, what a number depends on

Heavy packages are imported inside the functions, so that --help answers at once.
"""
