"""The VQ-VAE model family."""
