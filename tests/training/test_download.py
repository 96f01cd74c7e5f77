"""Downloading: only right content appears, from the first address that has it; nothing leaves this machine."""

import gzip
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from vqcodec.training.data import download
from vqcodec.training.data.datasets import DataError
from vqcodec.training.data.download import Source, get, idx_sha256, verify

BODY = b"pretend these are digits " * 100
SHA256 = hashlib.sha256(BODY).hexdigest()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/short.gz":  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"only this")
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a server of tmp_path/www, which holds good.gz and bad.gz."""
    www = tmp_path / "www"
    www.mkdir()
    (www / "good.gz").write_bytes(gzip.compress(BODY))
    (www / "bad.gz").write_bytes(gzip.compress(BODY + b"!"))
    handler = partial(QuietHandler, directory=str(www))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def sources(*urls: str) -> dict[str, tuple[Source, ...]]:
    return {"digits": (Source("mnist/x.gz", urls, SHA256, idx_sha256),)}


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_first_address_with_the_right_content_is_used(server: str, tmp_path: Path) -> None:
    urls = [f"{server}/{name}.gz" for name in ("absent", "bad", "short", "good")]
    paths = get("digits", tmp_path / "data", sources("nonsense", *urls))
    assert paths == [tmp_path / "data" / "mnist" / "x.gz"]
    assert gzip.decompress(paths[0].read_bytes()) == BODY
    assert files_below(tmp_path / "data") == ["x.gz"]
    assert verify("digits", tmp_path / "data", sources()) == paths


def test_file_addresses_work_and_progress_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "here.gz").write_bytes(gzip.compress(BODY))
    get("digits", tmp_path / "data", sources((tmp_path / "here.gz").as_uri()))
    assert files_below(tmp_path / "data") == ["x.gz"]
    assert capsys.readouterr().out == ""


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "x").write_bytes(BODY)  # the uncompressed form counts too
    assert get("digits", tmp_path, sources()) == [tmp_path / "mnist" / "x"]


def test_when_no_address_works_each_is_named_and_nothing_is_left(server: str, tmp_path: Path) -> None:
    urls = [f"{server}/{name}.gz" for name in ("absent", "bad", "short")]
    with pytest.raises(DataError, match=r"cannot get x.gz: .*404.*content has SHA-256.*ended after 9 of 5000"):
        get("digits", tmp_path / "data", sources(*urls))
    assert files_below(tmp_path / "data") == []


def test_endless_downloads_are_stopped(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        get("digits", tmp_path / "data", sources(f"{server}/good.gz"))


def test_wrong_content_that_is_there_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "x.gz").write_bytes(gzip.compress(b"mine"))
    for action in (get, verify):
        with pytest.raises(DataError, match="content has SHA-256 .* delete it"):
            action("digits", tmp_path, sources())
    assert files_below(tmp_path) == ["x.gz"]


def test_verify_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing .*x.gz: `vqcodec data get digits`"):
        verify("digits", tmp_path, sources())


@pytest.mark.parametrize("action", [get, verify])
def test_unknown_names_are_refused(action: object, tmp_path: Path) -> None:
    assert callable(action)
    with pytest.raises(DataError, match="unknown data set 'cifar': can get mnist, omniglot28"):
        action("cifar", tmp_path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(BODY)[:-9])
    with pytest.raises(DataError, match=r"x.gz: cannot be read"):
        idx_sha256(tmp_path / "x.gz")


def test_the_hash_of_a_zip_is_that_of_its_images(tmp_path: Path) -> None:
    files = {"images_background/b.png": b"2", "images_background/a.png": b"1", "images_background/": b""}
    for name, order, packing in (("x", files, zipfile.ZIP_STORED), ("y", sorted(files), zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / name, "w", packing) as archive:
            for member in order:
                archive.writestr(member, files[member])
    expected = b"".join(
        b"images_background/%s.png\0" % c + bytes(7) + b"\1" + d for c, d in ((b"a", b"1"), (b"b", b"2"))
    )
    assert download.zip_sha256(tmp_path / "x") == download.zip_sha256(tmp_path / "y")
    assert download.zip_sha256(tmp_path / "x") == hashlib.sha256(expected).hexdigest()


def test_every_official_file_has_an_address_and_a_hash() -> None:
    for source in (source for files in download.SOURCES.values() for source in files):
        assert len(bytes.fromhex(source.sha256)) == 32
        assert all(url.startswith("https://") and url.endswith(Path(source.path).name) for url in source.urls)
        assert source.urls
