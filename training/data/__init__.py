"""Data sets: by name, photographs, and how they are fetched."""
