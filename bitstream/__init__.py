"""Integers to bytes and back: integer CDF tables, the entropy coder, the container and its errors."""
