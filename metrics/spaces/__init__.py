"""Feature spaces: from images to features, how images get there, by name."""
