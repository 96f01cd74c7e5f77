"""The command line, `vqcodec`: the only package that knows click. Commands load what they need when they run."""

from .main import main as main
