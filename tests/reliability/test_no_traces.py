"""A run reaches no network, and what it exports says nothing of the machine."""

import os
import pathlib
import socket

import pytest
import small

from tf2 import run

pytestmark = pytest.mark.usefixtures("one_convolution")


def deny(*arguments, **_):
    raise AssertionError(f"a connection: {arguments}")


def deny_sockets(patch):
    """Lets every way to another machine fail, by Python's sockets and the proxies of urllib."""
    for name in ("connect", "connect_ex", "sendto", "bind"):
        patch.setattr(socket.socket, name, deny)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        patch.setattr(socket, name, deny)


@pytest.fixture(scope="module")
def trained(one_convolution, tmp_path_factory):
    """Model directory of a run that trained, evaluated and exported without sockets."""
    directory = tmp_path_factory.mktemp("trained")
    command = small.command(directory, train_mode="supervised", export=True)
    with pytest.MonkeyPatch.context() as patch:
        deny_sockets(patch)
        assert run.run_argv([*command, "--mode=train_then_eval"]) == 0
    return directory


def test_training_evaluation_export_and_prediction_open_no_socket(trained, tmp_path, monkeypatch):
    deny_sockets(monkeypatch)
    with pytest.raises(AssertionError, match="a connection"):
        socket.create_connection(("127.0.0.1", 9))
    output = tmp_path / "predictions.csv"
    flags = [f"--model_dir={trained}", "--eval_split=test", f"--output={output}"]
    assert run.run_argv(["run.py", "--mode=predict", *flags]) == 0
    assert output.exists()


def test_an_export_names_no_directory_and_no_host(trained):
    exported = [p for p in (trained / "saved_model").rglob("*") if p.is_file()]
    assert {"saved_model.pb", "model.json"} <= {path.name for path in exported}
    private = [str(trained), str(trained.parent), str(pathlib.Path.home()), os.getcwd()]
    private = [*private, str(pathlib.Path(run.__file__).parent), socket.gethostname()]
    for path in exported:
        content = path.read_bytes()
        for text in private:
            assert len(text) < 4 or text.encode() not in content, f"{text} in {path.name}"
