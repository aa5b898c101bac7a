"""The commands of refine.py, one file each, and what they share; they parse, wire and call.

gan, report, demo ...    a click command each, of the file's name
options                  what several commands take, from the fields that say it; --help in groups

Heavy packages are imported inside the functions, so that --help answers at once.
"""
