"""What a reader sees of a comparison: documents, pictures, curves."""
