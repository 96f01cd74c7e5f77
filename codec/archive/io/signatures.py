"""What tells image files from others before anything decodes them: their first bytes, and their suffixes."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

SIGNATURE_BYTES = 32
"""As many first bytes of a file as `suffix_of` looks at."""

_SIGNATURES = {
    ".png": rb"\x89PNG\r\n\x1a\n|\x8aMNG|\x8bJNG",
    ".jpg": rb"\xff\xd8\xff",
    ".gif": rb"GIF8[79]a",
    ".bmp": rb"BM.{4}\0\0\0\0|BM.{12}[\x0c\x28\x40\x6c\x7c]\0\0\0",
    ".tif": rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]|II\xbc\x01",
    ".webp": rb"RIFF.{4}WEBP",
    ".avif": rb".{4}ftypavi[fs]",
    ".heic": rb".{4}ftyp(?:hei[cfmsx]|hev[cmsx]|mif1|msf1)",
    ".jxl": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    ".jp2": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    ".ppm": rb"P[1-7fF]\s",
    ".dds": rb"DDS ",
    ".ftu": rb"FTEX",
    ".qoi": rb"qoif",
    ".psd": rb"8BPS",
    ".exr": rb"\x76\x2f\x31\x01",
    ".hdr": rb"#\?(?:RADIANCE|RGBE)",
    ".sgi": rb"\x01\xda[\0\x01][\x01\x02]",
    ".ico": rb"\0\0[\x01\x02]\0[\x01-\xff]\0.{2}[\0\x01]",
    ".icns": rb"icns",
    ".pcx": rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]",
    ".fits": rb"SIMPLE  =",
    ".ras": rb"\x59\xa6\x6a\x95",
    ".xcf": rb"gimp xcf",
}
_PATTERN = re.compile(b"|".join(b"(%s)" % pattern for pattern in _SIGNATURES.values()), re.DOTALL)
_OTHERS = (
    ".apng .arw .blp .bw .cr2 .cr3 .cur .dcm .dcx .dib .dng .emf .eps .fit .fli .flc .heif .hif .iim .im .j2c .j2k "
    ".jfif .jif .jpc .jpe .jpeg .jpf .jps .jpx .jxr .mng .mpo .msp .nef .orf .pbm .pfm .pgm .pnm .psb .pxr .raf .raw "
    ".rgb .rgba .rw2 .svg .svgz .tga .tiff .vda .vst .icb .wdp .wmf .xbm .xpm"
)
IMAGE_SUFFIXES = frozenset([*_SIGNATURES, *_OTHERS.split()])
"""Of the names of image files, in small letters, whether or not they can be read here."""


def suffix_of(start: bytes) -> str:
    """The usual suffix for an image file that begins so; "" if no image is known to."""
    match = _PATTERN.match(start)
    return "" if match is None or match.lastindex is None else list(_SIGNATURES)[match.lastindex - 1]


def image_suffix(name: str) -> str:
    """The suffix of a name, in small letters, if it is one of images; else ""."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else ""
