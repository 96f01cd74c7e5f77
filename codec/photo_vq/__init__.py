"""Photographs at very low rates: hierarchical vector quantisation with an exact staged prior over the indices."""
