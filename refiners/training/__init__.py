"""One step and what it moves: networks, optimisers, averages, states."""
