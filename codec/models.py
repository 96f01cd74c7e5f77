"""Models by name, number and file: the built-in ones, and weights files of the user."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..bitstream.errors import ModelMismatch
from ..bitstream.forks import Lock
from .config import ConfigError
from .family import LOSSLESS_PHOTOGRAPHS, PHOTOGRAPHS
from .weights_file import Description, describe, read_tensors, sha256, tensors_of

if TYPE_CHECKING:
    from .ladder.bitsback import ArchiveCodec
    from .ladder.codec import LadderCodec
    from .photo.codec import PhotoCodec
    from .vq.codec import VQCodec

BUILT_IN = {
    1: "vq-mnist",
    2: "vq-omniglot28",
    3: "ladder-mnist",
    4: "ladder-omniglot28",
    5: "ladder-mnist-binary",
    6: "ladder-omniglot28-binary",
}
"""Model numbers of streams. A number stands for one weights file for ever; new weights get a new number."""
ARCHIVE = {9: "archive-mnist-binary", 10: "archive-omniglot28-binary"}
"""Numbers of the models of archives, which code many images at once and none alone. 7 and 8 are retired: they were of
8-bit images, for which the ladders of single images need fewer bytes."""

PHOTO = {11: "ladder-photo", 12: "vq-photo", 13: "lossless-photo"}
"""Numbers of the models of photographs."""
PHOTOGRAPHS_FIRST, PHOTOGRAPHS_SMALLEST, PHOTOGRAPHS_LOSSLESS = PHOTO.values()
"""The one that `auto` takes, the one that it takes where a size is asked for that the first cannot reach, and the one
that keeps every pixel."""

_FOLDER = Path(__file__).parent / "weights"
_loading = Lock()


@dataclass(frozen=True)
class Model:
    """A model that is ready to code. number: 0 if not built in; sha256: of its weights file."""

    number: int
    description: Description
    sha256: bytes
    codec: VQCodec | LadderCodec  # or a PhotoCodec

    @property
    def photographs(self) -> bool:
        """Whether it codes photographs of any size."""
        return takes_photographs(self.description)

    @property
    def name(self) -> str:
        """Name in streams and on the command line."""
        return self.description.name

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images it takes, if it is not one for photographs."""
        return self.codec.image_size, self.codec.image_size


def available() -> dict[int, Description]:
    """Descriptions of the built-in models of single images by number."""
    return _described(BUILT_IN)


def for_archives() -> dict[int, Description]:
    """Descriptions of the built-in models of archives by number."""
    return _described(ARCHIVE)


def for_packing() -> list[Description]:
    """Descriptions of the built-in models that `vqcodec pack` tries by itself: those of archives, and the ladders of
    single grey images. Ladders of black and white ones take 6 to 8 % more than the models of archives."""
    single = (found for found in available().values() if packs_too(found))
    return [*for_archives().values(), *(found for found in single if found.config.get("likelihood") == "categorical")]


def for_photographs() -> dict[int, Description]:
    """Descriptions of the built-in models of photographs by number."""
    return _described(PHOTO)


def there(name: str) -> bool:
    """Whether the package has the weights of a built-in model."""
    return _path(name).exists()


def for_measuring() -> list[Description]:
    """Descriptions of the package's models that code no images and have no number: they are measured only."""
    paths = sorted(_FOLDER.glob("*.safetensors"), key=lambda path: path.stem)
    return [describe(path) for path in paths if path.stem not in _numbered().values()]


def packs(found: Description) -> bool:
    """Whether a model codes many images into one payload, as blocks of archives, and none alone."""
    return found.family == "ladder" and bool(found.config.get("context"))


def packs_too(found: Description) -> bool:
    """Whether a model of single images codes blocks of archives too: a ladder with rounded latents."""
    return found.family == "ladder" and not packs(found) and found.config.get("posterior", "uniform") == "uniform"


def takes_photographs(found: Description) -> bool:
    """Whether a model codes photographs of any size."""
    return found.family in PHOTOGRAPHS


def keeps_photographs(found: Description) -> bool:
    """Whether a model codes photographs losslessly, and in no other way."""
    return found.family == LOSSLESS_PHOTOGRAPHS


def named_keeps_photographs(name: str) -> bool:
    """The same for a name or a weights file's path. Raises ModelMismatch."""
    return keeps_photographs(describe(find(name)))


def named_takes_photographs(name: str) -> bool:
    """The same for a name or a weights file's path. Raises ModelMismatch."""
    return takes_photographs(describe(find(name)))


def _numbered() -> dict[int, str]:
    return BUILT_IN | ARCHIVE | PHOTO


def _described(names: dict[int, str]) -> dict[int, Description]:
    return {number: describe(_path(name)) for number, name in names.items() if _path(name).exists()}


def find(name: str) -> Path:
    """Weights file of a built-in model or of the user: a path, or a name in a folder of $VQCODEC_MODELS.

    Raises ModelMismatch, naming what this build has."""
    folders = [_FOLDER, *(Path(part) for part in os.environ.get("VQCODEC_MODELS", "").split(os.pathsep) if part)]
    for path in (Path(name), *(folder / f"{name}.safetensors" for folder in folders)):
        with suppress(OSError):  # a name that no file can have: too long
            if path.suffix == ".safetensors" and path.is_file():
                return path
    known = ", ".join(_numbered().values())
    raise ModelMismatch(f"no model {name!r}; this build has {known}, and takes the path of a weights file")


def load(name: str, device: str = "cpu", archive: bool = False) -> Model:
    """Model by name or path of its weights file; archive: one that packs archives, else one that codes single images
    (rounded ladders do both).

    Raises ModelMismatch."""
    path = find(name).resolve()
    with _loading.held():  # threads that ask for the same model at once get the same one
        model = _load(path, path.stat().st_mtime_ns, device)
    if archive and not (packs(model.description) or packs_too(model.description)):
        raise ModelMismatch(f"{model.name} codes single images; name a model that packs archives")
    if packs(model.description) and not archive:
        raise ModelMismatch(f"{model.name} packs archives only; `vqcodec pack` uses it")
    return model


def load_number(number: int, prefix: bytes, device: str = "cpu", archive: bool = False) -> Model:
    """Built-in model with this number whose weights' SHA-256 starts with prefix. Raises ModelMismatch as `load`."""
    names = _numbered()
    if number not in names or not _path(names[number]).exists():
        known = ", ".join(f"{n} {name}" for n, name in names.items())
        raise ModelMismatch(f"the file needs model {number}, which this build lacks (it has {known})")
    return _checked(load(names[number], device, archive), prefix)


def load_named(name: str, prefix: bytes, model: str | None, device: str = "cpu", archive: bool = False) -> Model:
    """The model a stream names: `model` (name or path) if given, else found by name. Raises ModelMismatch."""
    return _checked(load(model or name, device, archive), prefix)


def described(name: str, prefix: bytes, model: str | None) -> Description | None:
    """Description of the weights that a stream names, `model` as for `load_named`; None if they are not at hand."""
    with suppress(ModelMismatch):
        path = find(model or name)
        if sha256(path).startswith(prefix):
            return describe(path)
    return None


def _checked(model: Model, prefix: bytes) -> Model:
    if not model.sha256.startswith(prefix):
        found = model.sha256[: len(prefix)].hex()
        raise ModelMismatch(f"the file needs weights {prefix.hex()}... of {model.name}, but this build has {found}...")
    return model


def _path(name: str) -> Path:
    return _FOLDER / f"{name}.safetensors"


@lru_cache(maxsize=8)
def _load(path: Path, modified: int, device: str) -> Model:
    """modified: part of the cache's key, so that a file written anew is read anew."""
    description = describe(path)
    posterior = description.config.get("posterior", "uniform")
    if posterior != "uniform" and not packs(description):
        raise ModelMismatch(
            f"a model with posterior {posterior!r} and inference {description.config.get('inference')!r} cannot code "
            "images; only those with posterior 'uniform' and the ladder's inference can, and those for archives"
        )
    codec = read(path, description)
    return Model(_number(path, description), description, sha256(path), codec.to(device).eval())


def _number(path: Path, description: Description) -> int:
    """Number of a built-in model, else 0."""
    numbers = {name: number for number, name in _numbered().items()}
    return numbers.get(description.name, 0) if path.parent == _FOLDER.resolve() else 0


def read(path: Path, description: Description) -> VQCodec | LadderCodec:
    """The codec in a weights file with this description, whether it can code or not. Raises ModelMismatch."""
    from .exact.checks import check_frequencies, check_stored, check_values, limited
    from .exact.guard import building

    codec: VQCodec | LadderCodec
    if description.family not in _BUILD:
        raise ModelMismatch(f"{path}: unknown family {description.family!r}; this build knows {', '.join(_BUILD)}")
    try:
        stored = tensors_of(path)
        # Not on the meta device: initialising there imports torch._dynamo, which takes seconds.
        with building():
            with limited(sum(math.prod(told.shape) for told in stored.values())):
                codec = _BUILD[description.family](description.config)
            check_stored(codec, stored)
            codec.load_state_dict(read_tensors(path), assign=True)
            check_values(codec)
            if description.family == "ladder":
                for name, table in codec.named_buffers(recurse=False):
                    if name.startswith("tables"):
                        check_frequencies(name, table)
            if packs(description):
                cast("ArchiveCodec", codec).archive.check()
            elif takes_photographs(description):
                cast("PhotoCodec", codec).check()
    except (RuntimeError, ValueError, ConfigError) as error:
        raise ModelMismatch(f"{path}: the weights do not match their configuration: {error}") from error
    return codec


def _vq(config: dict[str, Any]) -> VQCodec:
    from .config import from_dict
    from .vq.codec import VQCodec
    from .vq.config import VQConfig
    from .vq.model import VQModel

    return VQCodec(VQModel(from_dict(VQConfig, config, "config")))


def _ladder(config: dict[str, Any]) -> LadderCodec:
    from .config import from_dict
    from .ladder.bitsback import ArchiveCodec
    from .ladder.codec import LadderCodec
    from .ladder.config import LadderConfig
    from .ladder.model import LadderModel
    from .ladder.rounded import RoundedCodec

    model = LadderModel(from_dict(LadderConfig, config, "config"))
    if model.config.context:
        return ArchiveCodec(model)
    return RoundedCodec(model) if model.config.posterior == "uniform" else LadderCodec(model)


def _photo(config: dict[str, Any]) -> Any:
    from .config import from_dict
    from .photo.codec import PhotoCodec
    from .photo.config import PhotoConfig
    from .photo.model import PhotoModel

    return PhotoCodec(PhotoModel(from_dict(PhotoConfig, config, "config")))


def _photo_vq(config: dict[str, Any]) -> Any:
    from .config import from_dict
    from .photo_vq.codec import PhotoVQCodec
    from .photo_vq.config import PhotoVQConfig
    from .photo_vq.model import PhotoVQModel

    return PhotoVQCodec(PhotoVQModel(from_dict(PhotoVQConfig, config, "config")))


def _photo_lossless(config: dict[str, Any]) -> Any:
    from .config import from_dict
    from .pixels.codec import PhotoLosslessCodec
    from .pixels.config import PhotoLosslessConfig
    from .pixels.model import PhotoLosslessModel

    return PhotoLosslessCodec(PhotoLosslessModel(from_dict(PhotoLosslessConfig, config, "config")))


_BUILD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "vq": _vq,
    "ladder": _ladder,
    "photo": _photo,
    "photo-vq": _photo_vq,
    "photo-lossless": _photo_lossless,
}
"""Codecs of all families, empty, for a configuration."""
