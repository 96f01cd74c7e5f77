"""The commands for archives, as real subprocesses."""

from __future__ import annotations

import io
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec as package
from vqcodec.bitstream.archive import Reader, Writer
from vqcodec.codec.archive.blocks import CODED, Form, files_block
from vqcodec.tests.command import run

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "codec" / "examples"
DIGITS: NDArray[np.uint8] = np.load(ROOT / "tests" / "images" / "mnist_test_8.npy")
COMMAND = [sys.executable, "-m", "vqcodec.cli"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / ".links")}


def vqcodec(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    if not options:
        return run(arguments, cwd)
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=300, **options)


def pack(*arguments: object, cwd: Path, **options: Any) -> str:
    """What `pack` prints without a model, whose loading takes seconds."""
    return done("pack", *arguments, "--model", "plain", cwd=cwd, **options)


def done(*arguments: object, cwd: Path, **options: Any) -> str:
    """What a command prints that succeeds and has nothing to note."""
    result = vqcodec(*arguments, cwd=cwd, **options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refused(*arguments: object, cwd: Path, code: int = 1, **options: Any) -> str:
    """The one line on stderr of a command that fails and leaves the folder as it was."""
    before = tree(cwd)
    result = vqcodec(*arguments, cwd=cwd, **options)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert tree(cwd) == before
    if code == 1:
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stderr.startswith("Error: ")
    return result.stderr


def tree(folder: Path) -> dict[str, bytes | None]:
    """Files and folders below a folder."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def pixels(path: Path) -> tuple[str, bytes]:
    with Image.open(path) as image:
        return image.mode, image.tobytes()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of seven images of several kinds, in folders."""
    folder = tmp_path / "pictures"
    (folder / "digits").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(DIGITS[number]).save(folder / "digits" / f"{number}.png")
    Image.fromarray(DIGITS[3] > 99).save(folder / "digits" / "black.tiff")
    for name in ("photo.png", "character.png"):
        (folder / name).write_bytes((EXAMPLES / name).read_bytes())
    with Image.open(EXAMPLES / "photo.png") as photo:
        photo.save(folder / "photo.jpg", quality=80)
    return folder


def test_a_folder_goes_in_and_comes_out(pictures: Path, tmp_path: Path) -> None:
    (pictures / "notes.txt").write_text("no image")
    result = vqcodec("pack", "pictures", "p.vqa", "--json", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr == "note: skipped pictures/notes.txt: not a readable image\n"
    told = json.loads(result.stdout)
    assert (told["output"], told["images"]) == ("p.vqa", 7)
    assert told["bytes_total"] == (tmp_path / "p.vqa").stat().st_size
    assert sum(kind["images"] for kind in told["kinds"]) == 7

    assert done("unpack", "p.vqa", "out", cwd=tmp_path) == "p.vqa -> out (7 images)\n"
    (pictures / "notes.txt").unlink()
    assert tree(tmp_path / "out").keys() == tree(pictures).keys()
    for name, data in tree(pictures).items():
        if data is not None:
            assert pixels(tmp_path / "out" / name) == pixels(pictures / name)
    assert (tmp_path / "out" / "photo.jpg").read_bytes() == (pictures / "photo.jpg").read_bytes()

    text = pack("pictures", "q.vqa", cwd=tmp_path)
    assert text.startswith(f"q.vqa: 7 images, {(tmp_path / 'q.vqa').stat().st_size:,} bytes, ")
    assert text.endswith(" each (2 files; 5 solid)\n")


def test_info_and_verify(pictures: Path, tmp_path: Path) -> None:
    pack("pictures", "p.vqa", cwd=tmp_path)
    size = (tmp_path / "p.vqa").stat().st_size
    told = json.loads(done("info", "p.vqa", "--json", "--names", cwd=tmp_path))
    assert (told["kind"], told["images"], told["bytes_total"]) == ("archive", 7, size)
    assert [(block["kind"], block["images"]) for block in told["blocks"]] == [("files", 2), ("solid", 5)]
    names = ["character.png", "digits/0.png", "digits/1.png", "digits/2.png", "digits/black.tiff"]
    assert told["names"] == [*names, "photo.jpg", "photo.png"]
    assert "names" not in json.loads(done("info", "p.vqa", "--json", cwd=tmp_path))
    lines = done("info", "p.vqa", "--names", cwd=tmp_path).splitlines()
    assert lines[1].split() == ["images", "7"]
    assert lines[3].startswith("block 0 ")
    assert lines[4].startswith("block 1 ")
    assert lines[5:] == told["names"]

    assert done("verify", "p.vqa", cwd=tmp_path) == "p.vqa: 7 images in 2 blocks, all sound\n"
    told = json.loads(done("verify", "p.vqa", "--json", cwd=tmp_path))
    assert told == {"input": "p.vqa", "images": 7, "blocks": 2, "damaged": []}


def test_arrays_go_in_and_come_out(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", DIGITS)
    pack("d.npy", "d.vqa", "--jobs", 1, cwd=tmp_path)
    for name in ("e.npy", "e-ubyte", "e.npz"):
        assert done("unpack", "d.vqa", name, cwd=tmp_path) == f"d.vqa -> {name} (8 images)\n"
    assert (tmp_path / "e.npy").read_bytes() == (tmp_path / "d.npy").read_bytes()
    assert "both be named 'e'" in refused("pack", "e.npy", "e.npz", "all.vqa", cwd=tmp_path)
    pack("e-ubyte", "e.npz", "all.vqa", cwd=tmp_path)
    with package.Archive(tmp_path / "all.vqa") as archive:
        assert list(archive.names) == [f"{name}/{number}" for name in ("e-ubyte", "e/images") for number in range(8)]


def test_only_some_images(pictures: Path, tmp_path: Path) -> None:
    pack("pictures", "p.vqa", cwd=tmp_path)
    done("unpack", "p.vqa", "out", "--only", "digits/1.png", "--only", "photo.jpg", cwd=tmp_path)
    assert list(tree(tmp_path / "out")) == ["digits", "digits/1.png", "photo.jpg"]
    error = refused("unpack", "p.vqa", "none", "--only", "digits/1.pgn", cwd=tmp_path)
    assert "holds no image 'digits/1.pgn'; did you mean 'digits/1.png' or " in error
    assert refused("unpack", "p.vqa", "none", "--only", "zzz", cwd=tmp_path).endswith("no image 'zzz'\n")


def test_several_sources_and_urls(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("pictures/photo.png\n")
    url = f"file://{pictures}/digits"
    pack(url, "@list.txt", "pictures/character.png", f"file://{tmp_path}/p.vqa", cwd=tmp_path)
    names = json.loads(done("info", tmp_path / "p.vqa", "--json", "--names", cwd=tmp_path))["names"]
    assert names == [
        "digits/0.png", "digits/1.png", "digits/2.png", "digits/black.tiff", "list/pictures/photo.png", "character.png",
    ]  # fmt: skip
    assert "both be named 'photo.png'" in refused(
        "pack", "pictures/photo.png", EXAMPLES / "photo.png", "q.vqa", cwd=tmp_path
    )


def test_an_archive_in_the_packed_folder_is_not_packed(pictures: Path) -> None:
    first = pack(".", "p.vqa", cwd=pictures)
    assert pack(".", "p.vqa", "--force", cwd=pictures) == first
    assert "exists; use --force" in refused("pack", ".", "p.vqa", cwd=pictures)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of n.npy, 1,100 images, and x.vqa, which holds them."""
    folder = tmp_path_factory.mktemp("many")
    np.save(folder / "n.npy", np.random.default_rng(0).integers(0, 256, (1100, 6, 6), np.uint8))
    pack("n.npy", "x.vqa", "--jobs", 1, cwd=folder)
    return folder


def test_jobs_make_no_difference(many: Path, tmp_path: Path) -> None:
    pack(many / "n.npy", "x.vqa", "--jobs", 2, cwd=tmp_path)
    assert (tmp_path / "x.vqa").read_bytes() == (many / "x.vqa").read_bytes()
    done("unpack", "x.vqa", "back.npy", cwd=tmp_path)
    assert (tmp_path / "back.npy").read_bytes() == (many / "n.npy").read_bytes()


def test_bad_input_to_pack(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    (tmp_path / "there.vqa").write_text("precious")
    (tmp_path / "folder.vqa").mkdir()
    cut = (EXAMPLES / "photo.png").read_bytes()[:3000]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "photo.png").write_bytes(cut)
    (tmp_path / "list.txt").write_text("pictures/photo.png\npictures/../pictures/photo.png\n")
    np.save(tmp_path / "floats.npy", np.zeros((2, 8, 8)))
    assert "cannot read nix: no such file or folder" in refused("pack", "nix", "o.vqa", cwd=tmp_path)
    assert "no images in empty: the folder is empty" in refused("pack", "empty", "o.vqa", cwd=tmp_path)
    result = vqcodec("pack", "texts", "o.vqa", cwd=tmp_path)
    assert (result.returncode, result.stderr.splitlines()[-1]) == (1, "Error: no images in texts")
    assert not (tmp_path / "o.vqa").exists()
    error = refused("pack", "texts", "o.vqa", "--strict", cwd=tmp_path)
    assert "texts/a.txt: not a readable image" in error
    assert "texts/a.txt: not a readable image" in refused("pack", "texts/a.txt", "o.vqa", cwd=tmp_path)
    assert "photo.png" in refused("pack", "cut", "o.vqa", "--strict", cwd=tmp_path)
    assert "two images" in refused("pack", "@list.txt", "o.vqa", cwd=tmp_path)
    assert "type float64: expected uint8" in refused("pack", "floats.npy", "o.vqa", cwd=tmp_path)
    assert "there.vqa exists; use --force" in refused("pack", "pictures", "there.vqa", cwd=tmp_path)
    assert "there.vqa is both an input and the output" in refused(
        "pack", "there.vqa", "there.vqa", "--force", cwd=tmp_path
    )
    assert "folder.vqa is a folder" in refused("pack", "pictures", "folder.vqa", cwd=tmp_path)
    assert "the folder nix does not exist" in refused("pack", "pictures", "nix/o.vqa", cwd=tmp_path)
    assert "no model 'nix'" in refused("pack", "pictures", "o.vqa", "--model", "nix", cwd=tmp_path)
    assert "cannot be used" in refused("pack", "pictures", "o.vqa", "--device", "nix", cwd=tmp_path)
    assert "ending in .vqa; found pictures/photo.png" in refused(
        "pack", "pictures/character.png", "pictures/photo.png", cwd=tmp_path, code=2
    )
    assert "Missing argument" in refused("pack", "o.vqa", cwd=tmp_path, code=2)
    assert "nix://x: Protocol not known" in refused("pack", "nix://x", "o.vqa", cwd=tmp_path)


def test_a_damaged_image_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "photo.png").write_bytes((EXAMPLES / "photo.png").read_bytes()[:3000])
    (tmp_path / "in" / "digit.png").write_bytes((EXAMPLES / "digit.png").read_bytes())
    result = vqcodec("pack", "in", "p.vqa", "--model", "plain", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr.startswith("note: photo.png was stored as it is: ")
    assert len(result.stderr.splitlines()) == 1
    done("unpack", "p.vqa", "out", cwd=tmp_path)
    assert (tmp_path / "out" / "photo.png").read_bytes() == (tmp_path / "in" / "photo.png").read_bytes()


def test_bad_input_to_commands_that_read(pictures: Path, tmp_path: Path) -> None:
    pack("pictures", "p.vqa", cwd=tmp_path)
    done("compress", EXAMPLES / "digit.png", "d.vqc", "--model", "plain", cwd=tmp_path)
    blob = (tmp_path / "p.vqa").read_bytes()
    (tmp_path / "cut.vqa").write_bytes(blob[:-9])
    (tmp_path / "empty.vqa").write_bytes(b"")
    (tmp_path / "photo.vqa").write_bytes((EXAMPLES / "photo.png").read_bytes())
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("precious")
    for command in (("unpack", "IN", "o"), ("verify", "IN")):
        for name in ("cut.vqa", "empty.vqa", "photo.vqa", "d.vqc", "nix.vqa", "there"):
            assert name in refused(*(name if word == "IN" else word for word in command), cwd=tmp_path)
    assert "cut.vqa" in refused("info", "cut.vqa", cwd=tmp_path)
    assert "decompress" in refused("unpack", "d.vqc", "o", cwd=tmp_path)
    assert "vqcodec unpack" in refused("decompress", "p.vqa", "o.png", cwd=tmp_path)
    assert "there exists; use --force" in refused("unpack", "p.vqa", "there", cwd=tmp_path)
    assert "d.vqc is a file; name a folder" in refused("unpack", "p.vqa", "d.vqc", "--force", cwd=tmp_path)
    assert "p.vqa is a file" in refused("unpack", "p.vqa", "p.vqa", "--force", cwd=tmp_path)
    assert "unpack into a folder" in refused("unpack", "p.vqa", "o.npy", cwd=tmp_path)
    assert "the folder nix does not exist" in refused("unpack", "p.vqa", "nix/o", cwd=tmp_path)


@pytest.fixture
def damaged(many: Path, tmp_path: Path) -> Path:
    """A folder of x.vqa, whose second of two blocks is damaged."""
    files = [Form(CODED, blob) for blob in package.encode_batch(np.load(many / "n.npy"), model="plain")]
    stream = io.BytesIO()
    writer = Writer(stream)
    for numbers in (range(1000), range(1000, 1100)):
        writer.add(files_block(numbers, files[numbers.start : numbers.stop]))
    writer.finish(f"{number:04}" for number in range(1100))
    blob = bytearray(stream.getvalue())
    blob[Reader(stream).blocks[1].offset + 9] ^= 1
    (tmp_path / "x.vqa").write_bytes(blob)
    return tmp_path


LOST = ["damaged: block 1 at offset ", "lost: 1000 to 1099"]


def test_a_damaged_block_loses_its_images_only(many: Path, damaged: Path) -> None:
    result = vqcodec("verify", "x.vqa", cwd=damaged)
    assert (result.returncode, result.stdout) == (1, "x.vqa: 1,100 images in 2 blocks, 1 damaged\n")
    assert [line[: len(start)] for line, start in zip(result.stderr.splitlines(), LOST, strict=True)] == LOST
    told = json.loads(vqcodec("verify", "x.vqa", "--json", cwd=damaged).stdout)
    assert [one["block"] for one in told["damaged"]] == [1]
    assert told["damaged"][0]["names"] == [str(number) for number in range(1000, 1100)]

    assert "x.vqa: block 1 at offset " in refused("unpack", "x.vqa", "out.npy", cwd=damaged)
    result = vqcodec("unpack", "x.vqa", "out.npy", "--keep-going", cwd=damaged)
    assert (result.returncode, result.stdout) == (1, "x.vqa -> out.npy (1,000 images)\n")
    assert [line[: len(start)] for line, start in zip(result.stderr.splitlines(), LOST, strict=True)] == LOST
    assert np.array_equal(np.load(damaged / "out.npy"), np.load(many / "n.npy")[:1000])

    done("unpack", "x.vqa", "one", "--only", "0000", cwd=damaged)
    assert "no image can be read" in refused("unpack", "x.vqa", "o", "--only", 1050, "--keep-going", cwd=damaged)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing_behind(pictures: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    error = refused("pack", "pictures", "p.vqa", "--model", "plain", "--jobs", 1, cwd=tmp_path, preexec_fn=limit)
    assert "cannot write p.vqa: File too large" in error
    pack("pictures", "p.vqa", cwd=tmp_path)
    assert "cannot write out/photo" in refused("unpack", "p.vqa", "out", cwd=tmp_path, preexec_fn=limit)


def killed(*arguments: object, cwd: Path, pattern: str) -> None:
    """Run a command and kill it as soon as there is a file of this pattern."""
    with subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=cwd, env=ENVIRONMENT) as process:
        while not any(path.is_file() for path in cwd.glob(pattern)):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_killed_commands_leave_nothing_that_looks_whole(many: Path, tmp_path: Path) -> None:
    shutil.copy(many / "n.npy", tmp_path)
    killed("pack", "n.npy", "x.vqa", "--model", "plain", cwd=tmp_path, pattern=".vqcodec-*")
    assert not (tmp_path / "x.vqa").exists()
    shutil.copy(many / "x.vqa", tmp_path)
    killed("unpack", "x.vqa", "out", cwd=tmp_path, pattern=".vqcodec-*/*.png")
    assert not (tmp_path / "out").exists()
    done("unpack", "x.vqa", "out", cwd=tmp_path)
    assert len(tree(tmp_path / "out")) == 1100
    left = [path.name for path in tmp_path.iterdir() if path.name not in ("n.npy", "x.vqa", "out")]
    assert len(left) == 2
    assert all(name.startswith(".vqcodec-") for name in left)
    shutil.rmtree(tmp_path / "out")
    result = vqcodec("pack", ".", "y.vqa", cwd=tmp_path)  # what was left is hidden from packing
    assert result.stderr.endswith("Error: no images in .\n")


def test_a_bar_never_goes_to_stdout(pictures: Path, tmp_path: Path) -> None:
    for arguments in (
        ("pack", "pictures", "p.vqa", "--model", "plain"),
        ("verify", "p.vqa"),
        ("unpack", "p.vqa", "out"),
    ):
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*COMMAND, *arguments], cwd=tmp_path, env=ENVIRONMENT, stdout=-1, stderr=theirs
        ) as process:
            os.close(theirs)
            shown = b""
            with suppress(OSError):  # it says so when the other end is closed
                while part := os.read(ours, 1 << 16):
                    shown += part
            os.close(ours)
            assert process.stdout is not None
            assert b"\x1b" not in process.stdout.read()
        assert process.returncode == 0, shown


def test_decoding_loads_nothing_that_trains_or_measures(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", DIGITS)
    pack("d.npy", "d.vqa", cwd=tmp_path)
    code = (
        "import sys; from vqcodec.cli import main; main(['unpack', 'd.vqa', 'out'], standalone_mode=False); "
        "print([name for name in sys.modules if name.startswith(('vqcodec.training', 'vqcodec.eval', 'torch'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_help_names_the_commands(tmp_path: Path) -> None:
    text = done("--help", cwd=tmp_path)
    for command in ("pack", "unpack", "verify"):
        assert f"  {command} " in text
        assert "Usage" in done(command, "--help", cwd=tmp_path)


# The library


def test_the_same_in_python(pictures: Path, tmp_path: Path) -> None:
    told = package.pack(pictures, tmp_path / "p.vqa")
    assert told.images == 7
    with package.Archive(tmp_path / "p.vqa") as archive:
        assert len(archive) == 7
        assert archive["digits/1.png"].tobytes() == DIGITS[1].tobytes()
    assert package.unpack(tmp_path / "p.vqa", tmp_path / "out").images == 7
    package.unpack(str(tmp_path / "p.vqa"), str(tmp_path / "one.npy"), ["digits/0.png"])
    assert np.array_equal(np.load(tmp_path / "one.npy"), DIGITS[:1])
    package.pack([package.Item("x", array=DIGITS[0])], tmp_path / "i.vqa", model="plain")
    package.pack([pictures / "photo.png", str(pictures / "digits")], tmp_path / "s.vqa", model="plain")
    with package.Archive(tmp_path / "s.vqa") as archive:
        assert list(archive.names)[:2] == ["photo.png", "digits/0.png"]
    with pytest.raises(package.VqcodecError, match="is the archive itself"):
        package.unpack(tmp_path / "i.vqa", tmp_path / "i.vqa", force=True)
