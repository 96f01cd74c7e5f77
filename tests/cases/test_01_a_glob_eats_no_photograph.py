"""What a pattern stands for is never written over; several inputs are written beside themselves or into a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import vqcodec
from vqcodec.cli import main

PLAIN = ("--model", "plain")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def drawn(path: Path, seed: int = 0) -> bytes:
    """An image file at the path, by its suffix."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 4, (9, 11, 3), np.uint8)).save(path)
    return path.read_bytes()


def packed(path: Path, seed: int = 0) -> bytes:
    image = np.random.default_rng(seed).integers(0, 4, (9, 11, 3), np.uint8)
    path.write_bytes(vqcodec.encode(image, "plain"))
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, *arguments: str) -> str:
    before = content(folder)
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert content(folder) == before
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("name", ["b.jpg", "b.png", "b.bmp", "b.tif", "b.webp", "b.gif", "b.ppm"])
def test_two_photographs(folder: Path, name: str, force: tuple[str, ...]) -> None:
    drawn(folder / "a.png")
    drawn(folder / name)
    error = refused(folder, "compress", *force, "a.png", name)
    assert name in error
    assert "-o" in error
    assert "--force" not in error


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("kind", ["text", "empty", "archive", "damaged compact"])
def test_other_files_are_not_overwritten_by_a_second_name(folder: Path, kind: str, force: tuple[str, ...]) -> None:
    drawn(folder / "a.png")
    there = folder / "there.vqc"
    if kind == "archive":
        vqcodec.pack([str(folder / "a.png")], folder / "x.vqa", model="plain")
        (folder / "x.vqa").rename(there)
    else:
        there.write_bytes({"text": b"notes", "empty": b"", "damaged compact": b"\xa8\x01abcdefgh"}[kind])
    assert "-o" in refused(folder, "compress", *force, "a.png", "there.vqc")
    packed(folder / "a.vqc")
    assert "-o" in refused(folder, "decompress", *force, "a.vqc", "there.vqc")


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_two_vqcodec_files(folder: Path, force: tuple[str, ...]) -> None:
    packed(folder / "a.vqc", 1)
    packed(folder / "b.vqc", 2)
    error = refused(folder, "decompress", *force, "a.vqc", "b.vqc")
    assert "b.vqc is a vqcodec file" in error
    assert "-o" in error


def test_an_input_and_an_output(folder: Path) -> None:
    drawn(folder / "a.png")
    old = packed(folder / "b.vqc", 5)
    assert "--force" in refused(folder, "compress", "a.png", "b.vqc", *PLAIN)
    assert run("compress", "a.png", "b.vqc", "--force", *PLAIN).exit_code == 0
    assert (folder / "b.vqc").read_bytes() != old
    assert run("compress", "a.png", "new.anything", *PLAIN).exit_code == 0
    assert run("decompress", "b.vqc", "c.png").exit_code == 0
    assert "--force" in refused(folder, "decompress", "b.vqc", "c.png")
    for name in ("c.png", "c.bmp", "c.tiff", "c.ppm", "c.webp"):
        for _ in range(2):
            assert run("decompress", "b.vqc", name, "--force").exit_code == 0


def test_an_output_by_option_is_overwritten_on_demand_but_never_the_input(folder: Path) -> None:
    drawn(folder / "a.png")
    drawn(folder / "b.jpg")
    os.link(folder / "a.png", folder / "hard.png")
    (folder / "soft.png").symlink_to("a.png")
    assert "--force" in refused(folder, "compress", "a.png", "-o", "b.jpg", *PLAIN)
    for name in ("a.png", "hard.png", "soft.png", "./a.png"):
        assert "is the input" in refused(folder, "compress", "a.png", "--force", "-o", name, *PLAIN)
        assert "is the input" in refused(folder, "compress", "a.png", name, "--force", *PLAIN)
    assert run("compress", "a.png", "-o", "b.jpg", "--force", *PLAIN).exit_code == 0
    assert vqcodec.info((folder / "b.jpg").read_bytes()).width == 11
    assert "several" in refused(folder, "compress", "a.png", "hard.png", "b.jpg", "-", *PLAIN)
    assert "folder" in refused(folder, "compress", "a.png", "hard.png", "-o", "x.vqc", *PLAIN)


@pytest.mark.parametrize("output", [(), ("-o", "out/"), ("-o", "there")])
def test_several_inputs(folder: Path, output: tuple[str, ...]) -> None:
    (folder / "there").mkdir()
    for number, name in enumerate(("a.png", "b.bmp", "c.webp")):
        drawn(folder / name, number)
    result = run("compress", "a.png", "b.bmp", "c.webp", *output, "--json", "--model", "plain")
    assert result.exit_code == 0, result.output
    place = Path(output[1]) if output else Path()
    assert [json.loads(line)["output"] for line in result.stdout.splitlines()] == [
        str(place / name) for name in ("a.vqc", "b.vqc", "c.vqc")
    ]
    back = run("decompress", *(str(place / f"{name}.vqc") for name in "abc"), "-o", "back/")
    assert back.exit_code == 0, back.output
    for name, first in zip("abc", ("a.png", "b.bmp", "c.webp"), strict=True):
        with Image.open(folder / first) as before, Image.open(folder / "back" / f"{name}.png") as after:
            assert after.tobytes() == before.convert("RGB").tobytes()


def test_two_inputs_into_a_folder(folder: Path) -> None:
    drawn(folder / "a.png")
    drawn(folder / "b.jpg")
    assert run("compress", "a.png", "b.jpg", "-o", "new/deep/", *PLAIN).exit_code == 0
    assert sorted(os.listdir("new/deep")) == ["a.vqc", "b.vqc"]
    assert "folder" in refused(folder, "compress", "a.png", "new", *PLAIN)
    assert "folder" in refused(folder, "compress", "a.png", "missing/", *PLAIN)
    assert "cannot make the folder" in refused(folder, "compress", "a.png", "-o", "b.jpg/", *PLAIN)


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    ("names", "output"),
    [
        (("a.jpg", "a.png", "b.png"), ()),
        (("a.jpg", "a.png"), ("-o", "out/")),
        (("sub/a.png", "a.png"), ("-o", "out/")),
        (("a.png", "b.png", "a.png"), ()),
        (("a.png", "b.png", "./a.png"), ()),
        (("a.png", "b.png", "linked/a.png"), ()),
    ],
)
def test_outputs_that_collide(
    folder: Path, names: tuple[str, ...], output: tuple[str, ...], force: tuple[str, ...]
) -> None:
    (folder / "sub").mkdir()
    (folder / "linked").symlink_to(".")
    for number, name in enumerate(("a.jpg", "a.png", "b.png", "sub/a.png")):
        drawn(folder / name, number)
    error = refused(folder, "compress", *names, *output, *force, *PLAIN)
    first, second = [name for name in names if Path(name).stem == "a"]
    assert first in error
    assert second in error
    assert not (folder / "out").exists()


def test_outputs_that_are_one_file_by_a_link(folder: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        drawn(folder / name)
    (folder / "a.vqc").symlink_to("b.vqc")
    assert "a.png and b.png" in refused(folder, "compress", "a.png", "b.png", "c.png", "--force", *PLAIN)


def test_outputs_that_are_inputs(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        drawn(folder / name)
    packed(folder / "a.vqc")
    error = refused(folder, "compress", "--force", "a.png", "a.vqc", "b.png", *PLAIN)
    assert "a.vqc is an input" in error
    error = refused(folder, "decompress", "--force", "a.png", "a.vqc", "b.png")
    assert "a.png is an input" in error
    os.link(folder / "b.png", folder / "c.vqc")
    drawn(folder / "c.png", 3)
    assert "c.png" in refused(folder, "compress", "--force", "a.png", "b.png", "c.png", *PLAIN)


def test_names_that_differ_by_case_only(folder: Path) -> None:
    """Refused where the file system takes them for one, else two files."""
    (folder / "probe").touch()
    one = (folder / "PROBE").exists()
    (folder / "sub").mkdir()
    drawn(folder / "a.png", 1)
    drawn(folder / "sub" / "A.png", 2)
    result = run("compress", "a.png", "sub/A.png", "-o", "out/", *PLAIN)
    assert result.exit_code == int(one)
    assert one or sorted(os.listdir("out")) == ["A.vqc", "a.vqc"]
    assert not [name for name in os.listdir() if name.startswith(".vqcodec-")]


def test_one_bad_file_does_not_stop_the_others(folder: Path) -> None:
    for name in ("a.png", "z.png"):
        drawn(folder / name)
    (folder / "text.png").write_text("no image")
    (folder / "folder.png").mkdir()
    packed(folder / "there.vqc")
    drawn(folder / "there.png")
    names = ("a.png", "text.png", "folder.png", "missing.png", "there.png", "z.png")
    result = run("compress", *names, "--json", *PLAIN)
    assert result.exit_code == 1
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["input"] for line in told] == list(names)
    assert ["error" in line for line in told] == [False, True, True, True, True, False]
    *lines, summary = result.stderr.splitlines()
    assert [any(name in line for line in lines) for name in names] == [False, True, True, True, True, False]
    assert summary == "Error: 4 of 6 files could not be compressed"
    assert (folder / "a.vqc").exists()
    assert (folder / "z.vqc").exists()
    (folder / "a.png").unlink()
    (folder / "z.png").unlink()
    (folder / "bad.vqc").write_bytes(b"VQC\x1a and more")
    result = run("decompress", "a.vqc", "bad.vqc", "z.vqc")
    assert result.exit_code == 1
    assert "bad.vqc" in result.stderr
    assert (folder / "z.png").exists()


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_names_that_cannot_be_used(folder: Path, command: str) -> None:
    assert "folder" in refused(folder, command, ".")
    assert "folder" in refused(folder, command, "/")
    assert "name is empty" in refused(folder, command, "")
    assert "name is empty" in refused(folder, command, "a.png", "-o", "")
    assert run(command).exit_code == 2


def test_names_that_are_no_text(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    drawn(folder / "a.png")
    (folder / "a.png").rename(folder / name)
    result = run("compress", name, *PLAIN)
    assert result.exit_code == 0, result.output
    assert (folder / os.fsdecode(b"caf\xe9.vqc")).exists()


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("words", [["b.jpg"], ["b.jpg", "-o", "."], ["b.jpg", "c.jpg", "d.jpg"]])
def test_names_that_are_made_up_overwrite_nothing_of_another_kind(folder: Path, words: list[str], link: bool) -> None:
    for name in ("a.png", "b.jpg", "c.jpg", "d.jpg"):
        drawn(folder / name, 1)
    if link:
        (folder / "b.vqc").symlink_to("a.png")
    else:
        (folder / "b.vqc").write_bytes((folder / "a.png").read_bytes())
    assert "b.vqc is an image; move it" in refused(folder, "compress", "--force", *words, *PLAIN)
