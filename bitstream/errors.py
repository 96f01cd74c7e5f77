"""Every error that vqcodec raises about files, models and images, in one tree.

VqcodecError
├── BitstreamError          the bytes of a file are not what they should be
│   ├── NotAVqcodecFile     made by another program
│   ├── UnsupportedVersion  made by a version or for a feature that this build does not have
│   ├── Truncated           ends before its own declared end
│   ├── Corrupt             checksum or a field is wrong
│   └── TooLarge            beyond a limit that protects memory
├── ModelMismatch           the file needs a model, or weights, that are not here
├── UnsupportedImage        the image cannot be stored
├── FileError               a file cannot be read or written
├── BadArgument             an argument of a public function is not what it takes (a ValueError too)
└── CoderUnavailable        torchac was demanded (VQCODEC_CODER=torchac) and cannot be built here

Wrong arguments from our own code raise ValueError instead.
"""

# ruff: noqa: N818 - the names say what is wrong; all of them are errors

from __future__ import annotations


class VqcodecError(Exception):
    """Base of all errors below; its message is one line meant for the user."""


class BitstreamError(VqcodecError):
    """The bytes of a file are not what they should be."""


class NotAVqcodecFile(BitstreamError):
    """The file was made by another program."""


class UnsupportedVersion(BitstreamError):
    """The file needs a format version or a feature that this build does not have."""


class Truncated(BitstreamError):
    """The file ends before its own declared end."""


class Corrupt(BitstreamError):
    """The checksum does not match, or a field has an impossible value."""


class TooLarge(BitstreamError):
    """The file declares something beyond a limit that protects memory."""


class ModelMismatch(VqcodecError):
    """The file needs a model, or weights of a model, that are not here."""


class UnsupportedImage(VqcodecError):
    """The image cannot be stored; the message says what to convert it to."""


class FileError(VqcodecError):
    """A file that cannot be read or written: missing, a folder, no permission, there already, disk full."""


class BadArgument(VqcodecError, ValueError):
    """An argument of a public function is not what it takes; the message says what it takes."""


class CoderUnavailable(VqcodecError):
    """torchac was demanded (VQCODEC_CODER=torchac) and cannot be built or loaded here."""
