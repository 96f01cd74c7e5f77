"""Photographs: a ladder of rounded latents with an exact prior and float synthesis, at any rate and any size."""
