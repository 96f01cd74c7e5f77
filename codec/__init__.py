"""Images to symbols and back: model families, exact arithmetic, weights, and the public functions."""
