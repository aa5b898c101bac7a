"""A whole run and what is seen of it: folder, log, pictures, judge, signals, plan."""
