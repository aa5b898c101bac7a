"""Distances and scores as pure functions of features or moments; their table."""
