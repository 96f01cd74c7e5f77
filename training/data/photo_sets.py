"""Sets of photographs by name, for measuring: colour images of several sizes, each a file that is known by its SHA-256.

    kodak   Kodak Lossless True Color Image Suite, 24 PNGs of 768 x 512 or 512 x 768 pixels: split test only.

Files are looked for in DATA/NAME/, where DATA is the argument, else $VQCODEC_DATA, else ~/.cache/vqcodec/data."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import datasets
from .datasets import DataError, Dataset

# As several public copies of the suite have them (see the data folder's README).
KODAK = {
    "kodim01": "a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd",
    "kodim02": "4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd",
    "kodim03": "e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db",
    "kodim04": "e3b946107c5d3441c022f678d0c3caf1e224d81b1604ba840a4f88e562de61aa",
    "kodim05": "10349e963c5c813d327852f82c1795fa4148d69fedffc4c589bee458e3ac3d53",
    "kodim06": "363510303b715d4cbc384e1ce227e466b613a09e1b71ae985882bf8e7fbd9b18",
    "kodim07": "b77d3f006f42414bb242222e0482e750c0fb9e5ee8d4bed2f6f11c5605fe54a4",
    "kodim08": "ba23983c76b4832ee0e8af0592664756841a16779acd69f792e268fb6d13d6e7",
    "kodim09": "6a4361c2fc194feb4edaa9f9a4a0620fb9943e460ac7fdf037fb0f6dd6607a7d",
    "kodim10": "9dfb70f5867c29ff9ed6313683f19b3d867849e40fbc0c4c54a4a89df341cf23",
    "kodim11": "7936814b58b5387fce2e4e2488b4ec830dadd95fa9520f358ddb30990b50f2b6",
    "kodim12": "d78c37c2f04f23761ed2367dd77e2db584ddd4c3950833fecf89f199a8126980",
    "kodim13": "bc34a3ce58dea09dce1704c997171602de90cb34d0c8503a988b77f473d39b08",
    "kodim14": "55a94550ff18f3246c4074fd32b77b0c74447c26b6ad274d564d999c0450ba6e",
    "kodim15": "7538cbb80cb9103606c48b806eae57d56c885c7f90b9b3be70a41160f9cbb683",
    "kodim16": "a89c7268ccd4718ba424a99fc4643c572cf692ca6eae887185ceb4e9f11d2e54",
    "kodim17": "37afcc89fbdcb76d9518e04b2fc011027e2f4cd14b3b2f83cefd721641a47c5b",
    "kodim18": "1a9258c365988961d87a0598725b609139c303ad48a5aad6c503c3b1a87849aa",
    "kodim19": "b7450b264b1b0a411390d8931b112c27905a992520fc90569dc4b920aa32bbdc",
    "kodim20": "3b46c71e3b92a563820ba32936be8330c586c41f938efd94be938386aae4328a",
    "kodim21": "ac958597c82073f6bb65129c68f72b651db5b9efd82e11547d07350214bc268b",
    "kodim22": "1cee58eb1f2d9c7ebb254d208a03c783ce6cf2c4d8c2cf45e235dd23b4ce1b29",
    "kodim23": "e3111a2fd4da24af15d6459ef9eacfe54106b38e27b4a21821b75c3f5d2d5baf",
    "kodim24": "1071c68372cc5a01435c2c225a5cf7d4bb803846ec08bb6b3d6721b156d7cb96",
}
"""SHA-256 of the files."""


@dataclass(frozen=True)
class PhotoSet:
    """Photographs in memory. images: uint8 [H, W, 3] each, of any sizes; names: of their files, without the ending."""

    name: str
    split: str
    names: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]
    description: str
    licence: str


def load(name: str, split: str, data_dir: str | Path | None = None) -> PhotoSet:
    """Read a set of photographs. Raises DataError for an unknown name or split, a missing file or another one."""
    if name not in _LOADERS:
        raise DataError(f"unknown set of photographs {name!r}: this build has {', '.join(_LOADERS)}")
    return _LOADERS[name](split, datasets.data_folder(data_dir))


def load_any(name: str, split: str, data_dir: str | Path | None = None) -> Dataset | PhotoSet:
    """A set of photographs, or one of `datasets`. Raises DataError."""
    return (load if name in _LOADERS else datasets.load)(name, split, data_dir)


def read_photo(path: Path, sha256: str) -> NDArray[np.uint8]:
    """The pixels uint8 [H, W, 3] of the file with this SHA-256. Raises DataError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; name the folder that holds {path.parent.name}/ by --data-dir or "
            "VQCODEC_DATA"
        ) from error
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise DataError(f"{path}: SHA-256 {found}, expected {sha256}: not the official file")
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _load_kodak(split: str, folder: Path) -> PhotoSet:
    if split != "test":
        raise DataError(f"kodak has no split {split!r}: it has test")
    images = tuple(read_photo(folder / "kodak" / f"{name}.png", sha256) for name, sha256 in KODAK.items())
    return PhotoSet(
        "kodak", split, tuple(KODAK), images, "Kodak Lossless True Color Image Suite (PhotoCD PCD0992)",
        "released by the Eastman Kodak Company for unrestricted usage",
    )  # fmt: skip


_LOADERS: dict[str, Callable[[str, Path], PhotoSet]] = {"kodak": _load_kodak}
