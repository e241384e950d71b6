"""Downloads and archives of others: https, one site, whole, and of a plausible size."""

import contextlib
import http.server
import io
import os
import tarfile
import threading
import urllib.request
import zipfile

import h5py
import pytest

from checkpoints_tools import keras_file
from tf2 import errors
from tf2.checkpoints import archive, download, fetch

BODY = bytes(range(256)) * 100


class Handler(http.server.BaseHTTPRequestHandler):
    """Paths say what the server does: /whole, /short, /endless, /to/URL."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            return self.end_headers()
        self.send_response(200)
        if not self.path.startswith("/endless"):
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(BODY[: 1000 if self.path.startswith("/short") else None])


@pytest.fixture
def address(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(fetch, "_WAIT_SECONDS", 0.0)
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIMCLR_MIRROR", raising=False)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_whole_file_and_a_redirect_on_the_same_host_come(address, tmp_path):
    for number, url in enumerate((f"{address}/whole", f"{address}/to/{address}/whole")):
        fetch.fetch(fetch.Remote(url, "x"), str(tmp_path / str(number)))
        assert (tmp_path / str(number)).read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("short", "1,000 of 25,600 bytes"),
        ("endless", "needs a size or a hash"),
        ("to/http://localhost:9/x", "within its site only"),
        ("to/http://example.org/x", "within its site only"),
        ("to/file:///etc/passwd", "is not allowed"),
    ],
)
def test_what_is_not_whole_or_from_another_site_is_refused(address, tmp_path, path, words):
    with pytest.raises(errors.UserError, match=words):
        fetch.fetch(fetch.Remote(f"{address}/{path}", "x"), str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("mirror", [None, "http://mirror.example.org"])
def test_plain_http_is_refused_before_anything_is_sent(address, monkeypatch, mirror):
    monkeypatch.setattr(urllib.request, "build_opener", lambda *_: pytest.fail("a connection"))
    name = "http://example.org/x.zip"
    if mirror:
        name = "r50_1x_sk1_pretrained"
        monkeypatch.setenv("SIMCLR_MIRROR", mirror)
    with pytest.raises(errors.UserError, match="by https.*example.org.*https://"):
        download.download(name)


@pytest.mark.parametrize(
    ("begin", "end", "follows"),
    [
        ("https://a.org/x", "https://a.org/y", True),
        ("https://a.org/x", "https://cdn.a.org/y", True),
        ("https://storage.a.org/x", "https://a.org/y", True),
        ("https://a.org/x", "http://a.org/y", False),
        ("https://a.org/x", "https://nota.org/y", False),
        ("https://a.org/x", "https://a.org.evil.net/y", False),
        ("https://a.org/x", "https://org/y", False),
        ("https://one.a.org/x", "https://two.a.org/y", False),
        ("https://127.0.0.1/x", "http://127.0.0.1/y", False),
    ],
)
def test_redirects_stay_within_their_site_and_by_https(begin, end, follows):
    redirect = fetch._SameSite().redirect_request
    arguments = (urllib.request.Request(begin), None, 302, "Found", {}, end)
    if follows:
        assert redirect(*arguments).full_url == end
        return
    with pytest.raises(errors.UserError, match="within its site only"):
        redirect(*arguments)


ZEROS = 32 * 2**20


def write_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("model.ckpt-1.index", bytes(ZEROS))


def write_tar(path):
    with tarfile.open(path, "w:gz") as made:
        member = tarfile.TarInfo("model.ckpt-1.index")
        member.size = ZEROS
        made.addfile(member, io.BytesIO(bytes(ZEROS)))


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, write):
    path = tmp_path / ("x.zip" if write is write_zip else "x.tar.gz")
    write(path)
    assert path.stat().st_size < 50_000
    with pytest.raises(errors.UserError, match="must not unpack to more than 16,777,216"):
        archive.extract(str(path), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == [path.name]


def test_a_keras_archive_that_would_fill_the_disk_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("model.weights.h5", bytes(ZEROS))
    with pytest.raises(errors.UserError, match="must not unpack"):
        keras_file.read(str(tmp_path / "x.keras"))


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"chunks": (2**20,)}])
def test_a_small_keras_file_of_a_huge_array_is_refused(tmp_path, options):
    shape = (2**23,) if "compression" in options else (2**40,)
    with h5py.File(tmp_path / "x.weights.h5", "w") as f:
        item = f.create_dataset("conv/vars/0", shape, "float32", **options)
        if "compression" in options:
            item[:] = 0.0
    with pytest.raises(errors.UserError, match="must not unpack"):
        keras_file.read(str(tmp_path / "x.weights.h5"))


def test_an_archive_of_weights_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("model.ckpt-1.index", os.urandom(2**16))
        made.writestr("zeros", bytes(2**16))
    archive.extract(str(tmp_path / "x.zip"), str(tmp_path / "out"))
    assert len(os.listdir(tmp_path / "out")) == 2
