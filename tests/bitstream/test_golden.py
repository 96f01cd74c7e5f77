"""Files and streams of version 1, byte for byte. A missing one fails; this command writes all of them anew:

PYTHONPATH=.links python tests/bitstream/test_golden.py
"""

from pathlib import Path

import numpy as np
import pytest

from vqcodec.bitstream import (
    BitstreamError,
    CompactHeader,
    Corrupt,
    ModelHeader,
    NotAVqcodecFile,
    PlainHeader,
    StreamDecoder,
    StreamEncoder,
    TooLarge,
    Truncated,
    UnsupportedVersion,
    cdf_from_frequencies,
    coder,
    quantise_weights,
    read,
    write,
)

GOLDEN = Path(__file__).parents[1] / "golden"

HEADERS = {
    "good-compact.vqc": CompactHeader(2, 7, b"\x5e"),
    "good-model.vqc": ModelHeader(2, "L", 28, 28, 0, bytes.fromhex("5e884898da280471"), "digits"),
    "good-plain.vqc": PlainHeader(0, "RGBA", 3, 2, b"\x01\x02"),
}
ALPHABETS = {"good-staged.stream": (17, coder.SEGMENT), "good-segments.stream": (300, 100)}
"""Stream: alphabet, SEGMENT."""


def levels() -> list[tuple[np.ndarray, np.ndarray]]:
    """Four levels (symbols [97], cdf [97, K + 1]), K of 1, 2, 16 and 17, in plain integer arithmetic."""
    position = np.arange(97)
    result = []
    for k in (1, 2, 16, 17):
        weights = (position[:, None] * 7 + np.arange(k) * 13) ** 2 % 101
        result.append((position * position % k, cdf_from_frequencies(quantise_weights(weights + 1))))
    return result


def stream(name: str) -> bytes:
    alphabet, segment = ALPHABETS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coder, "SEGMENT", segment)
        encoder = StreamEncoder(alphabet)
        for symbols, cdf in levels():
            encoder.push(symbols, cdf)
        return encoder.finish()


def good_files() -> dict[str, bytes]:
    files = {name: write(header, b"\x8b") for name, header in HEADERS.items()}
    return files | {name: stream(name) for name in ALPHABETS}


def refused_files() -> dict[str, tuple[bytes, type[BitstreamError]]]:
    good = good_files()
    general, small = good["good-plain.vqc"], good["good-compact.vqc"]
    return {
        "bad-empty.vqc": (b"", Truncated),
        "bad-foreign.vqc": (b"\x89PNG\r\n\x1a\n", NotAVqcodecFile),
        "bad-compact-checksum.vqc": (small[:-1] + bytes([small[-1] ^ 1]), Corrupt),
        "bad-general-checksum.vqc": (general[:-1] + bytes([general[-1] ^ 1]), Corrupt),
        "bad-truncated.vqc": (general[:-1], Truncated),
        "bad-trailing.vqc": (general + b"\0", Corrupt),
        "bad-too-large.vqc": (write(PlainHeader(0, "L", 1 << 16, 1 << 16), b""), TooLarge),
        "unsupported-version.vqc": (general[:4] + b"\2" + general[5:], UnsupportedVersion),
        "unsupported-kind.vqc": (general[:5] + b"\3" + general[6:], UnsupportedVersion),
        "unsupported-compact.vqc": (b"\xb2" + small[1:], UnsupportedVersion),
    }


def all_files() -> dict[str, bytes]:
    return good_files() | {name: blob for name, (blob, _) in refused_files().items()}


@pytest.mark.parametrize("name", ["torchac", "python"])
def test_the_bytes_are_those_of_version_1(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_CODER", name)
    for file, blob in all_files().items():
        assert (GOLDEN / file).read_bytes() == blob, file


@pytest.mark.parametrize("name", HEADERS)
def test_good_files_are_read(name: str) -> None:
    assert read((GOLDEN / name).read_bytes()) == (HEADERS[name], b"\x8b")


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("choice", ["torchac", "python"])
def test_good_streams_are_read(name: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alphabet, segment = ALPHABETS[name]
    monkeypatch.setenv("VQCODEC_CODER", choice)
    monkeypatch.setattr(coder, "SEGMENT", segment)
    decoder = StreamDecoder((GOLDEN / name).read_bytes(), alphabet, 4 * 97)
    for symbols, cdf in levels():
        assert np.array_equal(decoder.pop(cdf), symbols)


@pytest.mark.parametrize("name", refused_files())
def test_bad_and_unsupported_files_are_refused(name: str) -> None:
    with pytest.raises(BitstreamError) as caught:
        read((GOLDEN / name).read_bytes())
    assert caught.type is refused_files()[name][1]


def test_every_file_has_a_line_in_the_readme() -> None:
    readme = (GOLDEN / "README.md").read_text(encoding="utf-8")
    assert [name for name in all_files() if f"| {name} |" not in readme] == []


if __name__ == "__main__":
    for file, content in all_files().items():
        (GOLDEN / file).write_bytes(content)
