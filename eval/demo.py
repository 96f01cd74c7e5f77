"""`make demo`: compress and decompress the example images by the command line, and print what came out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .. import __file__ as package
from ..codec.opening import formats
from .metrics import distortion
from .tables import aligned, number

EXAMPLES = Path(package).parent / "codec" / "examples"
CASES = (
    ("digit.png", ()),
    ("digit.png", ("--quality", "20")),
    ("digit.png", ("--lossless",)),
    ("character.png", ()),
    ("character.png", ("--lossless",)),
    ("photo.png", ()),
    ("photo.png", ("--lossless",)),
)
"""Images, and the options they are compressed with."""


class DemoError(Exception):
    """A command failed, or gave back another image than it promised."""


@dataclass(frozen=True)
class Row:
    """One image through the command line. psnr_db: None where every pixel came back."""

    name: str
    options: str
    png_bytes: int
    our_bytes: int
    psnr_db: float | None
    method: str


def main() -> int:
    """Print the table of all example images; 0 if everything went well, else 1."""
    try:
        with tempfile.TemporaryDirectory(prefix="vqcodec-demo-") as folder:
            rows = [round_trip(EXAMPLES / name, Path(folder), *options) for name, options in CASES]
    except DemoError as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    return 0


def round_trip(source: Path, folder: Path, *options: str) -> Row:
    """Compress an image into `folder` and decompress it again, as a user would. Raises DemoError."""
    packed, back = folder / f"{source.stem}.vqc", folder / source.name
    told = json.loads(run("compress", str(source), str(packed), *options, "--json", "--force"))
    run("decompress", str(packed), str(back), "--force")
    with Image.open(source, formats=formats()) as before, Image.open(back, formats=formats()) as after:
        psnr_db = compare(source.name, before, after, told["lossless"])
        return Row(
            source.name, " ".join(options), optimised_png(before), packed.stat().st_size, psnr_db, told["method"]
        )


def compare(name: str, before: Image.Image, after: Image.Image, lossless: bool) -> float | None:
    """PSNR in dB of a decompressed image; None if every pixel is the same.

    Raises DemoError if mode or size differ, or pixels though the image was stored losslessly."""
    if (before.mode, before.size) != (after.mode, after.size):
        raise DemoError(f"{name}: {before.mode} {before.size} came back as {after.mode} {after.size}")
    found = distortion(np.asarray(before)[None], np.asarray(after)[None])
    if lossless and found.mse:
        raise DemoError(f"{name}: stored losslessly, but pixels changed")
    return found.psnr_db if found.mse else None


def run(*arguments: str) -> str:
    """Standard output of `vqcodec ARGUMENTS` in a process of its own; stderr passes through. Raises DemoError."""
    command = [sys.executable, "-m", "vqcodec.cli", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise DemoError(f"vqcodec {' '.join(arguments)}: exit code {result.returncode}")
    return result.stdout


def optimised_png(image: Image.Image) -> int:
    """Bytes of the image as an optimised PNG of Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return len(buffer.getvalue())


def table(rows: list[Row]) -> str:
    """The rows under headers with units."""
    head = ["image", "options", "PNG, bytes", "vqcodec, bytes", "of PNG", "PSNR, dB", "method"]
    body = [
        [row.name, row.options, number(row.png_bytes), number(row.our_bytes), f"{row.our_bytes / row.png_bytes:.1%}",
         "lossless" if row.psnr_db is None else f"{row.psnr_db:.2f}", row.method]
        for row in rows
    ]  # fmt: skip
    return aligned([head, *body])


if __name__ == "__main__":
    sys.exit(main())
