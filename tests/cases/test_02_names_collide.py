"""Whatever `pack` writes can be unpacked into a folder: all images come back, under their own names if possible."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

import vqcodec
from vqcodec.bitstream.archive_names import Names, runs_of
from vqcodec.codec.archive.io.file_names import FileNames, FileSystem
from vqcodec.codec.archive.io.sinks import open_sink
from vqcodec.codec.archive.io.sources import Item

LINKS = str(Path(__file__).parents[2] / ".links")


def image(seed: int, mode: str = "RGB") -> Image.Image:
    """Noise in 1 to 4 channels; few levels, so that the pixels are coded and the file is not kept."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 3, (24, 20, channels), np.uint8) * 100
    picture = Image.fromarray(values if channels > 1 else values[..., 0])
    return picture if picture.mode == mode else picture.convert(mode)


def png(seed: int, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image(seed, mode).save(buffer, options.pop("format", "PNG"), **{"compress_level": 0, **options})
    return buffer.getvalue()


def folder_of(folder: Path, *names: str) -> Path:
    """Files of these names, each with a PNG of its own inside that is larger than what pack makes of it."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(seed))
    return folder


def pixels(path: Path | io.BytesIO) -> bytes:
    with Image.open(path) as found:
        return found.mode.encode() + found.tobytes()


def tree(folder: Path) -> dict[str, bytes]:
    """Pixels by name."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): pixels(path) for path in paths}


CLASHES = [
    ("scan", "scan.png"),
    ("w.jpg", "w.jpg.png"),
    ("w.jpg", "w.jpg.png", "w.jpg.1.png"),
    ("w.jpg", "w.jpg.png", "w.jpg.1", "w.jpg.1.png", "w.jpg.1.png.png"),
    ("w.gif", "w.gif.png", "w.gif.png.png"),
    ("w.jpg", "w.jpg.png/x.png"),
    ("d/00", "d/00.png", "d/00.1.png"),
    ("x.webp", "x.webp.png", "x", "x.png"),
]


@pytest.mark.parametrize("names", CLASHES)
def test_all_images_come_back(names: tuple[str, ...], tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", *names)
    assert vqcodec.pack(source, tmp_path / "a.vqa", model="plain").images == len(names)
    told = vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "out")
    assert (told.images, told.damaged) == (len(names), ())
    files, back, renamed = tree(source), tree(tmp_path / "out"), dict(told.renamed)
    assert {renamed.get(name, name if name in back else f"{name}.png"): each for name, each in files.items()} == back
    for number, name in enumerate(names):
        vqcodec.unpack(tmp_path / "a.vqa", tmp_path / str(number), [name])
        assert list(tree(tmp_path / str(number))) == [file for file, each in back.items() if each == files[name]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"], ids=["coded", "kept"])
@pytest.mark.parametrize("names", [("a", "a/b.png"), ("a.jpg", "a.jpg/b/c"), ("a/b", "a/b/c", "a/b.png", "a/b.jpg")])
def test_a_name_may_be_the_folder_of_another(names: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    items = [Item(name, file=png(seed, format=kind)) for seed, name in enumerate(names)]
    for order in (items, items[::-1]):
        vqcodec.pack(order, tmp_path / "a.vqa", model="plain", force=True)
        told = vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "out", force=True)
        assert names[0] in dict(told.renamed)
        assert names[1] not in dict(told.renamed) or kind == "PNG"
    expected = sorted(pixels(io.BytesIO(item.file or b"")) for item in items)
    assert sorted(tree(tmp_path / "out").values()) == expected


NAMES = [
    "noext",
    "a/noext",
    "scan.2024",
    "v1.5-final",
    "x.dat",
    "hidden.",
    "y.PNG",
    "z.tif",
    "z.tiff",
    "z.bmp",
    "z.tga",
]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_names_come_back_where_the_pixels_can_be_written_under_them(mode: str, tmp_path: Path) -> None:
    names = [name for name in NAMES if (mode, name) != ("RGBA", "z.bmp")]
    vqcodec.pack([Item(n, file=png(k, mode)) for k, n in enumerate(names)], tmp_path / "a.vqa", model="plain")
    told = vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "out")
    assert told.renamed == ()
    assert tree(tmp_path / "out") == {name: pixels(io.BytesIO(png(k, mode))) for k, name in enumerate(names)}
    with Image.open(tmp_path / "out" / "z.tga") as found:
        assert found.format == "TGA"


def test_nothing_is_lost_to_the_format_of_a_name(tmp_path: Path) -> None:
    """Transparency of a palette in TIFF and BMP, 16 bits in WebP, many colours in GIF."""
    palette = image(0).quantize(9)
    deep = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(24, 20) * 136)
    many = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))
    images = {"p.tif": (palette, {"transparency": 0}), "p.bmp": (palette, {"transparency": 0})}
    images |= {"d.webp": (deep, {}), "d.ppm": (deep, {}), "m.gif": (many, {}), "m.jpg": (many, {}), "m.jp2": (many, {})}
    items = []
    for name, (picture, options) in images.items():
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=0, **options)
        items.append(Item(name, file=buffer.getvalue()))
    vqcodec.pack(items, tmp_path / "a.vqa", model="plain")
    files = dict(vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "out").renamed)
    for item in items:
        with (
            Image.open(tmp_path / "out" / files.get(item.name, item.name)) as found,
            Image.open(io.BytesIO(item.file or b"")) as original,
        ):
            if original.mode == "I;16":
                assert np.array_equal(np.asarray(found), np.asarray(original)), item.name
            else:
                assert found.convert("RGBA").tobytes() == original.convert("RGBA").tobytes(), item.name
    assert {"p.tif", "p.bmp", "m.gif", "m.jpg", "d.webp"} <= files.keys()


def test_numbers_of_arrays_become_png_files_without_a_note(tmp_path: Path) -> None:
    np.save(tmp_path / "n.npy", np.zeros((12, 8, 8), np.uint8))
    vqcodec.pack(tmp_path / "n.npy", tmp_path / "a.vqa", model="plain")
    assert vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "out").renamed == ()
    assert sorted(tree(tmp_path / "out")) == [f"{number:02}.png" for number in range(12)]


def test_an_archive_with_clashes_at_a_url(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.store.clear()
    names = ["w.jpg", "w.jpg.png", "image[1].png", "what?.png", "a*", "a*/b"]
    items = [Item(name, file=png(seed)) for seed, name in enumerate(names)]
    vqcodec.pack(items, "memory://x/a.vqa", model="plain")
    told = vqcodec.unpack("memory://x/a.vqa", "memory://x/out")
    assert dict(told.renamed) == {"w.jpg": "w.jpg.1.png", "a*": "a*.png"}
    files = {dict(told.renamed).get(item.name, item.name): pixels(io.BytesIO(item.file or b"")) for item in items}
    found = {path.removeprefix("/x/out/"): value for path, value in system.store.items() if "/out/" in path}
    assert {name: pixels(io.BytesIO(value.getvalue())) for name, value in found.items()} == files
    system.store.clear()


def test_the_command_line_notes_the_changed_names(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", *(f"{number}.jpg" for number in range(30)), "noext", "3.jpg.png")
    code = (
        "import sys; from vqcodec.cli import main\n"
        "for words in ('pack in a.vqa --model plain', 'unpack a.vqa out', 'unpack a.vqa two --json --keep-going'):\n"
        "    main(words.split(), standalone_mode=False)"
    )
    environment = os.environ | {"PYTHONPATH": LINKS}
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=True)
    _, unpacked, as_json = result.stdout.splitlines()
    assert unpacked == "a.vqa -> out (32 images, 30 under other names)"
    notes = result.stderr.splitlines()
    assert "note: 3.jpg was unpacked as 3.jpg.1.png" not in notes[:2]
    assert notes[0] == "note: 0.jpg was unpacked as 0.jpg.png"
    assert len(notes) == 2 * 21
    assert "10 more images" in notes[20]
    told = json.loads(as_json)
    assert ["3.jpg", "3.jpg.1.png"] in told["renamed"]
    assert len(told["renamed"]) == 30


# Names on other file systems


def files(system: FileSystem, names: list[str], suffix: str = ".png", fits: bool = True) -> list[str]:
    """The files of the names, the last folders first, as blocks may come."""
    made = FileNames(Names(runs_of(names)), system)
    found = [made.file(name, suffix, fits) for name in names[::-1]][::-1]
    assert found == [FileNames(Names(runs_of(names)), system).file(name, suffix, fits) for name in names]
    assert len({system.key(file) for file in found}) == len(names)
    folders = {system.key(file.rpartition("/")[0]) for file in found}
    assert not folders & {system.key(file) for file in found}
    return found


TWINS = ["A.png", "a.png", "é.png", "e\u0301.png", "D/x.png", "d/x.png", "d/y.png", "E.png", "e.png/x", "f/G/h", "f/g"]


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("composes", [True, False])
@pytest.mark.parametrize("folds", [True, False])
def test_twins_get_names_of_their_own(folds: bool, composes: bool, windows: bool, fits: bool) -> None:
    system = FileSystem(folds_case=folds, composes=composes, windows=windows)
    found = dict(zip(TWINS, files(system, TWINS, fits=fits), strict=True))
    if fits:
        assert found["A.png"] == "A.png"
        assert (found["a.png"] == "a.png") is not folds
        assert (found["e\u0301.png"] == "e\u0301.png") is not composes
        assert (found["d/y.png"] == "d/y.png") is not folds
        assert found["f/G/h"] == "f/G/h"
        assert (found["E.png"] == "E.png") is not folds
    assert found["d/y.png"].rpartition("/")[0] == found["d/x.png"].rpartition("/")[0]


WINDOWS = {
    "CON": "%43ON", "con.png": "%63on.png", "COM1.tar.gz": "%43OM1.tar.gz", "a:b": "a%3Ab", "a.": "a%2E", "a ": "a%20",
    "console": "console", "lpt0": "%6Cpt0", "com": "com", "a\\b": "a%5Cb", "x\n?": "x%0A%3F",
    "50%": "50%", "5%:": "5%25%3A",
    "nul/aux/x": "%6Eul/%61ux/x", "CONIN$": "%43ONIN$", "b\udcff": "b%FF", "con .x": "%63on .x",
}  # fmt: skip


def test_names_that_windows_refuses() -> None:
    system = FileSystem(folds_case=True, windows=True, unicode_only=True)
    assert dict(zip(WINDOWS, files(system, list(WINDOWS), ""), strict=True)) == WINDOWS
    clash = ["a:b", "a%3Ab", "a?b", "A:B"]
    assert files(system, clash)[0] == "a%3Ab"
    assert files(FileSystem(windows=True), ["x.", "x", "x%2E"], "")[1] == "x"


def test_names_that_are_too_long() -> None:
    system = FileSystem(part_bytes=255, path_bytes=1000)
    names = [
        "x" * 256,
        "x" * 257,
        "é" * 130 + ".png",
        "y" * 252,
        "y" * 255 + "/z",
        "d/" * 600 + "z.png",
        "z" * 300 + ".png/1",
    ]
    for fits in (True, False):
        for name, file in zip(names, files(system, names, fits=fits), strict=True):
            assert all(len(part.encode()) <= 255 for part in file.split("/"))
            assert len(file.encode()) <= 1000
            assert fits is False or (file == name) is (name == "y" * 252 or name.startswith("y" * 255))
    first = files(system, ["x" * 300])[0]
    assert files(system, ["x" * 300, first])[1] == first


def test_the_file_system_has_the_last_word(tmp_path: Path) -> None:
    """What it refuses for reasons of its own comes back under a plain name."""

    class Held:
        original = None

        def pil(self) -> Image.Image:
            return image(0)

        def png(self) -> bytes:
            return png(0)

    names = Names(runs_of(["a/1.png"]))
    renamed: list[tuple[str, str]] = []
    with open_sink(
        tmp_path / "out", range(1), names.__getitem__, False, names, lambda *one: renamed.append(one)
    ) as put:  # type: ignore[arg-type]
        (staging,) = tmp_path.iterdir()
        (staging / "a").write_bytes(b"in the way")
        put(0, "a/1.png", Held())
        (staging / "a").unlink()
    (entry,) = renamed
    assert entry[0] == "a/1.png"
    assert list(tree(tmp_path / "out")) == [entry[1]]
