"""Fixed-point layers and tables, identical on every machine."""
