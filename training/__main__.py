"""`python -m vqcodec.training RECIPE ...` is `vqcodec train RECIPE ...`, alone or under torchrun."""

import os
import sys

from ..cli import main

try:
    main(["train", *sys.argv[1:]])
except SystemExit as ended:
    if "WORLD_SIZE" not in os.environ:
        raise
    # Now and then a process that has trained with others aborts in PyTorch's threads when it ends by itself
    # ("terminate called without an active exception"), and torchrun takes the training for failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
