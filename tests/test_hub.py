"""Networks on the Hugging Face Hub, against a fake one on loopback: pushed, downloaded, checked."""

import base64
import hashlib
import http.server
import importlib
import json
import logging
import os
import sys
import threading
import urllib.parse

import ckpt
import numpy as np
import pytest

import tf2 as simclr
from checkpoints_tools import convert, push
from tf2 import config, errors, resolve
from tf2.checkpoints import download, hub

pytest.importorskip("huggingface_hub")

REPOSITORY, TOKEN = "someone/small", "hf_secretOfTheTest"


class Hub(http.server.ThreadingHTTPServer):
    """Repositories by name: [(commit, {file: content})], the newest last."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.asked = {}, []

    def add(self, repository, content):
        commit = hashlib.sha1(repr(sorted(content.items())).encode()).hexdigest()
        self.repositories.setdefault(repository, []).append((commit, dict(content)))
        return commit


class Handler(http.server.BaseHTTPRequestHandler):
    """The four requests of a login's pushes and downloads."""

    def log_message(self, *_):
        pass

    def answer(self, body=b"", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path).lstrip("/")
        self.server.asked.append((self.command, path, self.headers.get("Authorization")))
        repository, _, rest = path.partition("/resolve/")
        commits = self.server.repositories.get(repository)
        if not commits:
            return self.answer(status=404, X_Error_Code="RepoNotFound")
        revision, _, name = rest.partition("/")
        commit = commits[-1][0] if revision == "main" else revision
        if commit not in dict(commits):
            return self.answer(status=404, X_Error_Code="RevisionNotFound")
        if name not in dict(commits)[commit]:
            return self.answer(status=404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        body = dict(commits)[commit][name]
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        return self.answer(body, X_Repo_Commit=commit, ETag=tag)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(status=401)
        url = f"http://127.0.0.1:{self.server.server_port}"
        parts = self.path.split("/")
        if self.path == "/api/repos/create":
            answer = {"url": f"{url}/{REPOSITORY}", "name": REPOSITORY}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif "preupload" in parts:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [
                {"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names
            ]}  # fmt: skip
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            content = {file["path"]: base64.b64decode(file["content"]) for file in files}
            commit = self.server.add("/".join(parts[3:5]), content)
            answer = {"success": True, "commitOid": commit, "hookOutput": ""}
            answer["commitUrl"] = f"{url}/{REPOSITORY}/commit/{commit}"
        return self.answer(json.dumps(answer).encode(), Content_Type="application/json")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A fake Hub; huggingface_hub reads its address when it is imported."""
    fake = Hub()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{fake.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    for name in [n for n in sys.modules if n.split(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    yield fake
    fake.shutdown()
    thread.join()
    fake.server_close()
    for name in [n for n in sys.modules if n.split(".")[0] == "huggingface_hub"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A converted network with settings that hold a path of this machine."""
    home = tmp_path_factory.mktemp("private")
    ckpt.write_tf1(home / "tf1" / "model.ckpt-9", ckpt.released(ckpt.shapes(), ema=False))
    convert.convert(str(home / "tf1"), str(home / "run"), "ours")
    flags = {"train_mode": "pretrain", "data_dir": str(home), "seed": 3}
    (home / "run" / "flags.json").write_text(json.dumps(flags))
    return home / "run"


@pytest.fixture(scope="module")
def repository_files(trained, tmp_path_factory):
    """The files of its repository, name -> content."""
    home = tmp_path_factory.mktemp("made")
    push.write(str(trained), str(home), f"hf://{REPOSITORY}")
    return {name: (home / name).read_bytes() for name in os.listdir(home)}


def contents(directory):
    """Returns the bytes of all files below a directory."""
    return [
        (os.path.join(home, name), open(os.path.join(home, name), "rb").read())
        for home, _, names in os.walk(directory)
        for name in names
    ]


def test_a_pushed_network_is_used_by_its_address(server, trained, tmp_path, caplog, capsys):
    with caplog.at_level(logging.DEBUG):
        address = push.push(str(trained), REPOSITORY)
        assert address == "hf://someone/small"
        path = download.local_path(address)
        ((commit, content),) = server.repositories[REPOSITORY]
        assert set(content) == {"model.safetensors", "model.json", "README.md"}
        assert str(trained.parent).encode() not in content["README.md"] + content["model.json"]
        assert "--checkpoint=hf://someone/small" in content["README.md"].decode()

        model, metadata = simclr.load_model(path)
        named = simclr.named_variables(model)
        for ours, value in ckpt.expected().items():
            np.testing.assert_array_equal(named[ours].numpy(), value, err_msg=ours)
        assert metadata["global_step"] == 1234

        given = config.Config(checkpoint=address, teacher=f"{address},/nowhere")
        taken = resolve.with_downloads(given)
        assert (taken.checkpoint, taken.teachers) == (path, (path, "/nowhere"))

        asked = len(server.asked)
        assert download.local_path(f"{address}@{commit}") == path  # one directory per commit
        assert all(method == "HEAD" for method, *_ in server.asked[asked:])
    assert any(token == f"Bearer {TOKEN}" for *_, token in server.asked)
    out = capsys.readouterr()
    assert TOKEN not in caplog.text + out.out + out.err
    assert not [name for name, content in contents(tmp_path) if TOKEN.encode() in content]


def test_only_weights_and_model_json_are_read(server, repository_files):
    server.add(REPOSITORY, {**repository_files, "evil.py": b"import os", "weights.bin": b"code"})
    download.local_path(f"hf://{REPOSITORY}")
    asked = {p.rsplit("/", 1)[-1] for _, p, _ in server.asked if p.startswith(REPOSITORY)}
    assert asked == {"model.safetensors", "model.json"}


def edited(files, **changes):
    metadata = {**json.loads(files["model.json"]), **changes}
    return {**files, "model.json": json.dumps(metadata).encode()}


def flipped(files):
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    return {**files, "model.safetensors": bytes(weights)}


@pytest.mark.parametrize(("change", "message"), [
    (lambda f: edited(f, architecture={**ckpt.SMALL, "depth": 34}), "where they differ"),
    (lambda f: edited(f, architecture="resnet"), "object as architecture"),
    (lambda f: edited(f, global_step="../../x"), "number or null as global_step"),
    (lambda f: edited(f, format=99), "format"),
    (lambda f: {**f, "model.json": b"[]"}, "JSON object"),
    (flipped, "was changed"),
    (lambda f: {"model.json": f["model.json"]}, "EntryNotFoundError"),
])  # fmt: skip
def test_an_untrusted_repository_is_checked(change, message, server, repository_files):
    server.add(REPOSITORY, change(repository_files))
    with pytest.raises(errors.UserError, match=message):
        download.local_path(f"hf://{REPOSITORY}")
    assert not os.path.isdir(download.cache()) or not os.listdir(download.cache())


@pytest.mark.parametrize(("address", "message"), [
    ("hf://someone/nothing", "RepositoryNotFoundError, HTTP 404"),
    ("hf://someone", "hf://user/name, or"),
    ("hf://../x@../../y", "Check the address|user/name, or"),
])  # fmt: skip
def test_a_wrong_address_is_one_sentence(address, message, server):
    with pytest.raises(errors.UserError, match=message):
        download.local_path(address)


def test_a_login_that_is_refused_is_one_sentence_without_the_token(server, trained, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(errors.UserError, match="let this user in") as raised:
        push.push(str(trained), REPOSITORY)
    assert "hf_another" not in str(raised.value)


def test_without_a_network_it_says_so(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(errors.UserError, match="must be reachable"):
        download.local_path("hf://someone/else")


def test_a_missing_library_is_one_sentence(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(errors.UserError, match=r"pip install 'simclr-tf2\[hub\]'"):
        hub.download(f"hf://{REPOSITORY}", "/nowhere")
