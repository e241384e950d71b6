"""Released networks: the catalog, and downloads that are complete or leave nothing."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import urllib.parse
import zipfile

import pytest
import tensorflow as tf

from checkpoints_tools import catalog as catalog_program
from checkpoints_tools import convert
from tests import reference
from tf2 import config as config_lib
from tf2 import errors, resolve
from tf2.checkpoints import archive, catalog, checkpoint_reader, download, fetch, file_lock, layouts

NAME = "r50_1x_sk1_finetuned_10pct"
FOLDER = "simclr-checkpoints/simclrv2/finetuned_10pct/r50_1x_sk1"
FILES = {
    f"{FOLDER}/checkpoint": b'model_checkpoint_path: "/a/b/model.ckpt-3754"\n',
    f"{FOLDER}/model.ckpt-3754.index": b"index" * 50,
    f"{FOLDER}/model.ckpt-3754.data-00000-of-00001": bytes(range(256)) * 4000,
    f"{FOLDER}/model.ckpt-3754.meta": b"graph",
    f"{FOLDER}/hub/saved_model.pb": b"hub",
}


class Server(http.server.ThreadingHTTPServer):
    """A bucket's server that can break off, send wrong content, and have no listing."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = dict(content)
        self.listing = True
        self.break_after = None  # bytes of a body, once per file
        self.broken = set()
        self.requests = []
        self.wrong = None  # a name whose body differs from what is listed


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, url = self.server, urllib.parse.urlparse(self.path)
        path = urllib.parse.unquote(url.path).lstrip("/")
        server.requests.append((path, self.headers.get("Range")))
        if path.startswith("storage/v1/b/") and server.listing:
            return self.send_listing(path.split("/")[3], urllib.parse.parse_qs(url.query))
        if path not in server.content:
            return self.send_error(404)
        body = server.content[path]
        if server.wrong and path.endswith(server.wrong):
            body = bytes(reversed(body))
        etag, begin = f'"{hashlib.md5(body).hexdigest()}"', 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and self.headers.get("If-Range") == etag:
            begin = int(match[1])
            if begin >= len(body):
                return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.send_header("ETag", etag)
        self.end_headers()
        body = body[begin:]
        if server.break_after and path not in server.broken and len(body) > server.break_after:
            server.broken.add(path)
            body = body[: server.break_after]
            self.close_connection = True
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def send_listing(self, bucket, query):
        names = [n.removeprefix(f"{bucket}/") for n in self.server.content]
        items = [
            {
                "name": name,
                "size": str(len(self.server.content[f"{bucket}/{name}"])),
                "md5Hash": base64.b64encode(
                    hashlib.md5(self.server.content[f"{bucket}/{name}"]).digest()
                ).decode(),
            }
            for name in names
            if name.startswith(query["prefix"][0])
        ]
        body = json.dumps({"items": items}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    bucket = Server(FILES)
    thread = threading.Thread(target=bucket.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("SIMCLR_MIRROR", f"http://127.0.0.1:{bucket.server_port}")
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_WAIT_SECONDS", 0.0)
    yield bucket
    bucket.shutdown()
    bucket.server_close()
    thread.join()


def contents(directory):
    return {
        os.path.relpath(os.path.join(home, name), directory): open(
            os.path.join(home, name), "rb"
        ).read()
        for home, _, names in os.walk(directory)
        for name in names
    }


def assert_is_the_checkpoint(path):
    found = contents(path)
    for name in ("model.ckpt-3754.index", "model.ckpt-3754.data-00000-of-00001"):
        assert found.pop(name) == FILES[f"{FOLDER}/{name}"]
    metadata = json.loads(found.pop("model.json"))
    assert metadata["architecture"]["ft_proj_selector"] == 1
    assert metadata["architecture"]["sk_ratio"] == 0.0625
    assert set(found) <= {"checkpoint", ".complete"}


def test_the_catalog_has_the_published_table():
    published = reference.PACK.json("10_published_results/published_results.json")
    columns = {
        "pretrained": "linear_eval", "finetuned_1pct": "ft_1pct", "finetuned_10pct": "ft_10pct",
        "finetuned_100pct": "ft_100pct", "supervised": "supervised",
    }  # fmt: skip
    expected = {
        f"{row['name']}_{variant}": (row["depth"], row["width"], row["sk"], row[column])
        for row in published["simclrv2"]
        for variant, column in columns.items()
    }
    expected |= {
        row["name"]: (50, row["width"], False, row["imagenet_top1"])
        for row in published["simclrv1_linear_eval"]
    }
    assert len(expected) == 68
    found = {
        name: (r.depth, r.width_multiplier, r.sk_ratio == 0.0625, r.accuracy)
        for name, r in catalog.RELEASES.items()
    }
    assert expected == {name: found[name] for name in expected}
    others = set(found) - set(expected)
    assert len([n for n in others if "_distill_" in n]) == 6
    assert len([n for n in others if n.startswith("simclrv1_") and "_finetuned_" in n]) == 6
    assert len(others) == 12


def test_an_address_that_stands_in_no_source_is_marked(server):
    """The maintainer of the reference names one distilled network, in its issue 130."""
    named = "gs://simclr-checkpoints/simclrv2/distill_1pct/r152_3x_sk1/r152_3x_sk1"
    distilled = [r for r in catalog.RELEASES.values() if "distill" in r.variant]
    assert [r.name for r in distilled if not r.inferred] == ["r152_3x_sk1_distill_1pct"]
    assert catalog.RELEASES["r152_3x_sk1_distill_1pct"].address == named
    line = catalog_program.table(["r50_2x_sk1_distill_10pct"]).splitlines()[1]
    assert re.search(r"80\.2% +unknown +gs://.*/r152_3x_sk1/r50_2x_sk1 \(inferred\)$", line)


def test_of_a_distilled_network_its_shapes_tell_the_classifiers_layer(server):
    folder = "simclr-checkpoints/simclrv2/distill_1pct/r152_3x_sk1/r152_3x_sk1"
    server.content = {f"{folder}/model.ckpt-7.index": b"x", f"{folder}/model.ckpt-7.data-0": b"y"}
    path = download.download("r152_3x_sk1_distill_1pct")
    assert "model.json" not in os.listdir(path)


def test_a_saved_model_of_the_first_version_is_downloaded(server):
    folder = "simclr-checkpoints-tf2/simclrv1/finetune_10pct/4x/saved_model"
    server.content = {f"{folder}/saved_model.pb": b"x", f"{folder}/variables/variables.index": b"y"}
    path = download.download("simclrv1_r50_4x_finetuned_10pct", saved_model=True)
    with open(os.path.join(path, "model.json")) as f:
        architecture = json.load(f)["architecture"]
    assert (architecture["width_multiplier"], architecture["ft_proj_selector"]) == (4, 0)


def test_few_labels_were_learned_on_the_first_projection_layer():
    for release in catalog.RELEASES.values():
        few = release.variant in ("finetuned_1pct", "finetuned_10pct")
        few = few and not release.name.startswith("simclrv1")  # released without projection head
        assert (release.ft_proj_selector == 1) == few, release.name


def test_the_catalog_is_listed():
    lines = catalog_program.table(["r152_3x", "finetuned_10pct"]).splitlines()
    assert len(lines) == 2
    assert re.search(r"80\.1% +1 +gs://simclr-checkpoints/simclrv2/finetuned_10pct", lines[1])


def test_a_name_is_downloaded_once(server):
    path = download.local_path(NAME)
    assert_is_the_checkpoint(path)
    asked = len(server.requests)
    assert download.local_path(NAME) == path
    assert len(server.requests) == asked
    assert not any(name.endswith((".meta", ".pb")) for name, _ in server.requests)


@pytest.mark.parametrize("listing", [True, False])
def test_a_broken_connection_is_resumed(server, listing):
    server.break_after, server.listing = 300_000, listing
    assert_is_the_checkpoint(download.download(NAME))
    ranges = [part for name, part in server.requests if ".data-" in name]
    assert ranges == [None, "bytes=300000-"]


def test_a_later_command_resumes(server, monkeypatch):
    server.break_after = 300_000
    monkeypatch.setattr(fetch, "_ATTEMPTS", 1)
    with pytest.raises(errors.UserError, match="300,000 of 1,024,000 bytes"):
        download.download(NAME)
    assert not os.path.exists(os.path.join(download.cache(), NAME))
    assert_is_the_checkpoint(download.download(NAME))
    assert ("bytes=300000-") in [part for _, part in server.requests]


def test_a_file_that_changed_is_downloaded_from_its_beginning(server, monkeypatch):
    server.listing, server.break_after = False, 300_000
    monkeypatch.setattr(fetch, "_ATTEMPTS", 1)
    with pytest.raises(errors.UserError, match="come whole"):
        download.download(NAME)
    name = f"{FOLDER}/model.ckpt-3754.data-00000-of-00001"
    server.content[name] = bytes(reversed(FILES[name]))
    path = download.download(NAME)
    assert contents(path)["model.ckpt-3754.data-00000-of-00001"] == server.content[name]


def test_content_with_another_hash_raises(server):
    server.wrong = ".index"
    with pytest.raises(errors.UserError, match="size or hash"):
        download.download(NAME)
    assert not os.path.exists(os.path.join(download.cache(), NAME))


def test_a_mirror_without_listing_and_state_file_works(server):
    server.listing = False
    del server.content[f"{FOLDER}/checkpoint"]
    assert_is_the_checkpoint(download.download(NAME))


def test_a_missing_file_is_one_sentence(server):
    server.content.clear()
    with pytest.raises(errors.UserError, match="neither, or can't be listed"):
        download.download(NAME)
    with pytest.raises(errors.UserError, match="404"):
        download.download("simclrv1_r50_2x")


def test_no_network_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("SIMCLR_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path))
    with pytest.raises(errors.UserError, match="SIMCLR_MIRROR"):
        download.download(NAME)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(server, monkeypatch):

    class Usage:
        free = 100_000

    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(errors.UserError, match="space"):
        download.download(NAME)
    assert os.listdir(download.cache()) == []


@pytest.mark.parametrize("name", ["r50_1x_sk1_finetuned_10pc", "r50_1x_sk2_pretrained"])
def test_a_mistyped_name_lists_similar_names(name):
    with pytest.raises(errors.UserError, match="r50_1x_sk1_"):
        download.local_path(name)


def test_paths_do_not_change(tmp_path):
    assert download.local_path(str(tmp_path)) == str(tmp_path)
    assert download.local_path("/nowhere/ckpt-3") == "/nowhere/ckpt-3"


def test_a_directory_with_other_things_is_not_touched(server, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(errors.UserError, match="of its own"):
        download.download(NAME, str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def zip_of(names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in names:
            made.writestr(name, name)
    return buffer.getvalue()


def test_an_archive_is_unpacked(server):
    inside = ["ResNet50_2x/model.ckpt-9.index", "ResNet50_2x/model.ckpt-9.data-00000-of-00001"]
    server.content["simclr-gcs/checkpoints/ResNet50_2x.zip"] = zip_of(inside)
    path = download.download("simclrv1_r50_2x")
    assert set(os.listdir(path)) == {"model.json", *(os.path.basename(name) for name in inside)}


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:/evil"])
def test_names_that_lead_outside_are_refused(name, tmp_path):
    (tmp_path / "x.zip").write_bytes(zip_of(["good", name]))
    with tarfile.open(tmp_path / "x.tar", "w") as made:
        made.addfile(tarfile.TarInfo(name))
    for file in ("x.zip", "x.tar"):
        with pytest.raises(errors.UserError, match="stay inside"):
            archive.extract(str(tmp_path / file), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["x.tar", "x.zip"]


def test_links_in_an_archive_are_refused(tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "x.tar", "w") as made:
        made.addfile(link)
    with pytest.raises(errors.UserError, match="plain files"):
        archive.extract(str(tmp_path / "x.tar"), str(tmp_path / "out"))


@pytest.mark.parametrize("file", ["x.zip", "x.tar.gz"])
def test_a_damaged_archive_is_one_sentence(file, tmp_path):
    whole = zip_of(["a", "b"])
    if file.endswith("gz"):
        with tarfile.open(tmp_path / file, "w:gz") as made:
            member = tarfile.TarInfo("a")
            member.size = len(whole)
            made.addfile(member, io.BytesIO(whole))
        whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(errors.UserError, match="whole"):
        archive.extract(str(tmp_path / file), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == [file]


def test_a_run_takes_names_for_its_checkpoint_and_teachers(server):
    config = config_lib.Config(checkpoint=NAME, teacher=f"{NAME},/nowhere/export")
    taken = resolve.with_downloads(config)
    assert_is_the_checkpoint(taken.checkpoint)
    assert taken.teacher == f"{taken.checkpoint},/nowhere/export"
    metadata = checkpoint_reader.read_metadata(taken.checkpoint)
    assert metadata["architecture"]["ft_proj_selector"] == 1


def test_a_released_network_is_read_with_its_classifier_in_place(server, tmp_path, monkeypatch):
    """A network of the released kind, small, goes through server, TF1's names and model.json."""
    release = dataclasses.replace(
        catalog.RELEASES[NAME], depth=18, width_multiplier=0.125, sk_ratio=0.0
    )
    monkeypatch.setitem(catalog.RELEASES, NAME, release)
    architecture = release.metadata["architecture"]
    whole = {**architecture, "ft_proj_selector": None}
    names = layouts.canonical(whole)
    shapes = layouts.weights(whole)
    shapes["supervised_head/dense/kernel"] = (64, 1000)
    weights = {names[n]: reference.fill(names[n], shape) for n, shape in shapes.items()}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = {n: tf.compat.v1.get_variable(n, initializer=v) for n, v in weights.items()}
        session.run([v.initializer for v in made.values()])
        saver = tf.compat.v1.train.Saver(made)
        saver.save(session, str(tmp_path / "model.ckpt"), 3754, write_meta_graph=False)
    server.content = {
        f"{FOLDER}/{name}": (tmp_path / name).read_bytes()
        for name in os.listdir(tmp_path)
        if name.startswith(("model.ckpt", "checkpoint"))
    }
    network = convert.read(download.local_path(NAME))
    assert network.metadata["architecture"] == architecture
    assert network.metadata["global_step"] == 3754
    assert set(network.tensors) == set(layouts.weights(architecture))
    for name in network.tensors:
        assert (network.tensors[name] == weights[names[name]]).all(), name


# ---- systems without fcntl

WITHOUT_FCNTL = """
import runpy, sys
sys.modules["fcntl"] = None  # importing it fails, as on Windows
from tf2 import run
from tf2.checkpoints import file_lock
assert file_lock._fcntl is None
runpy.run_module("checkpoints_tools.download", run_name="__main__")
"""


def test_without_fcntl_run_imports_and_the_download_command_reports_a_mistake():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FCNTL, "r50_9x"],
        capture_output=True,
        text=True,
        cwd=reference.TESTS.parent,
    )
    assert done.returncode == 1, done.stderr
    assert "name of the catalog" in done.stderr and "Traceback" not in done.stderr


class Msvcrt:
    """The part of Windows's module that locks, with a lock that is free on the third try."""

    LK_NBLCK = 2

    def __init__(self):
        self.calls = []

    def locking(self, descriptor, mode, size):
        self.calls.append((mode, size))
        if len(self.calls) < 3:
            raise OSError(13, "Permission denied")


def test_on_windows_the_lock_waits_for_the_other_process(tmp_path, monkeypatch):
    windows = Msvcrt()
    monkeypatch.setattr(file_lock, "_fcntl", None)
    monkeypatch.setattr(file_lock, "_msvcrt", windows)
    monkeypatch.setattr(file_lock, "_WAIT_SECONDS", 0.0)
    with file_lock.locked(str(tmp_path / "lock")):
        assert windows.calls == [(Msvcrt.LK_NBLCK, 1)] * 3
        assert os.listdir(tmp_path) == ["lock"]
    assert os.listdir(tmp_path) == []


def test_without_any_lock_the_log_says_what_is_not_protected(server, monkeypatch, caplog):
    monkeypatch.setattr(file_lock, "_fcntl", None)
    monkeypatch.setattr(file_lock, "_msvcrt", None)
    with caplog.at_level("WARNING"):
        assert_is_the_checkpoint(download.download(NAME))
    assert "do not download the same network in two processes" in caplog.text


def test_a_lock_keeps_another_process_out(tmp_path):
    """The second process gets the lock when the first one leaves the block, not before."""
    path = str(tmp_path / "lock")
    program = (
        "import sys; from tf2.checkpoints import file_lock\n"
        "print('ready', flush=True)\n"
        "with file_lock.locked(sys.argv[1]): print('locked', flush=True)"
    )
    with file_lock.locked(path):
        other = subprocess.Popen(
            [sys.executable, "-c", program, path],
            stdout=subprocess.PIPE,
            text=True,
            cwd=reference.TESTS.parent,
        )
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=0.5)
    assert other.communicate(timeout=60)[0] == "locked\n" and other.returncode == 0
