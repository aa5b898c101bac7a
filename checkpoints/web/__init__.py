"""Network files by URL or by a published network's name: a cache with hashes."""
