"""The VQ-VAE family: residual vector quantisation with an exact staged context prior."""
