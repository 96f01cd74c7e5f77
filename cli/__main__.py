"""`python -m vqcodec.cli` is the command `vqcodec`."""

from .main import main

if __name__ == "__main__":
    main()
