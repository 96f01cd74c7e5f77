"""The Ladder VAE family: hierarchical latents, coded coarse to fine, and pixels under an exact likelihood."""
