"""The container: header, payload, checksum. Layouts and limits are those of FORMAT.md."""

from __future__ import annotations

MODES = {
    1: "1",
    2: "L",
    3: "LA",
    4: "P",
    5: "RGB",
    6: "RGBA",
    7: "I;16",
    8: "I",
    9: "RGB;16",
    10: "RGBA;16",
    11: "LA;16",
    12: "PA",
}
"""Image mode codes of the general header. Names are Pillow's; ";16" means 16 bits per channel."""
