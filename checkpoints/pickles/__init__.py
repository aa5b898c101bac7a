"""Pickles and the zips of torch.save: a reader that runs nothing, and a writer."""
