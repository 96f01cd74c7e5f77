"""Data sets, losses, recipes and the training loop; the product is a weights file."""
