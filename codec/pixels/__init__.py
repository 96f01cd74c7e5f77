"""Lossless coding of photographs, pixel by pixel."""
