"""`python -m vqcodec.training RECIPE ...` is `vqcodec train RECIPE ...`."""

import sys

from ..cli import main

main(["train", *sys.argv[1:]])
