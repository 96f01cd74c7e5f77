"""The page of crops: photographs as several codecs give them, pixel by pixel, at equal size of the files."""

from __future__ import annotations

import base64
import io

from PIL import Image

from ...training.data.photo_sets import PhotoSet
from ..bench.crops import ORIGINAL, SIDE, Crops, Row, Shown
from ..metrics import Images
from .page import Facts, Figure, Html, Section, code, escaped, page
from .shared import where_measured


def crops_page(crops: Crops, data: PhotoSet, command: str) -> str:
    """The whole document. command: what made it, as one would type it."""
    models = ", ".join(crops.models)
    sections = [_measured(crops, data, command), *(_section(row) for row in crops.rows)]
    return page(f"{models} on {data.name}", f"crops at about {crops.bpp:g} bits per pixel", sections)


def _measured(crops: Crops, data: PhotoSet, command: str) -> Section:
    facts = Facts([
        ("Models", ", ".join(crops.models)),
        ("Data", f"{crops.data}, {len(crops.rows)} of {len(data.images)} photographs"),
        ("Data set", f"{data.description}; licence: {data.licence}"),
        *where_measured(vars(crops.environment)),
        ("Command", code(command)),
    ])  # fmt: skip
    text = (
        f"The quality of {crops.models[0]} is the one whose file is nearest to {crops.bpp:g} bits per pixel; that of "
        "every other codec the one whose file is nearest in size to that file. Bytes and PSNR (RGB) are of the whole "
        f"file and image, of which {SIDE} x {SIDE} pixels are shown, stored here without loss."
    )
    return Section("What is shown", [text, facts])


def _section(row: Row) -> Section:
    place = row.place
    caption = (
        f"{row.width} x {row.height} pixels; the crop starts {place.left} from the left and {place.top} from the top."
    )
    tiles = "\n".join(_tile(shown, place.name) for shown in row.shown)
    figure = Figure("Equal size of files", caption, [Html(f'<div class="crops">\n{tiles}\n</div>')], wide=True)
    return Section(place.name, [figure])


def _tile(shown: Shown, name: str) -> Html:
    source = f"data:image/webp;base64,{base64.b64encode(_webp(shown.crop)).decode()}"
    label = shown.codec if shown.quality is None else f"{shown.codec}, quality {shown.quality}"
    alt = f"Crop of {name}, {'the original' if shown.codec == ORIGINAL else f'coded by {shown.codec}'}"
    return Html(
        f'<div><img src="{source}" width="{SIDE}" height="{SIDE}" alt="{escaped(alt)}">'
        f"<div>{escaped(label)}<small>{escaped(_note(shown))}</small></div></div>"
    )


def _note(shown: Shown) -> str:
    if shown.bytes_total is None:
        return "24 bits per pixel"
    return f"{shown.bytes_total:,} bytes, {shown.bpp:.3f} bpp, {shown.psnr_db:.2f} dB"


def _webp(crop: Images) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop).save(
        buffer, "WEBP", lossless=True, quality=75, method=4
    )  # more is a hundred times slower, no smaller
    return buffer.getvalue()
