"""The command line: printed results, errors, signals and resuming."""

import errno
import gc
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import reference
import small
import tensorflow as tf
from PIL import Image

from tf2 import early_checks, loop, progress, run
from tf2.checkpoints import checkpoint_reader

ROOT = pathlib.Path(run.__file__).parents[1]
CIFAR = ROOT.parent / "shared" / "tfds"
COMMANDS = {
    command["what"]: command["argv"]
    for command in reference.PACK.json("flags.json")["published_commands"]
}
# Only appended, never a change of what was published.
SHRUNK = ("--train_steps=2", "--train_batch_size=16", "--width_multiplier=0.125")
SHRUNK += ("--eval_steps=1", "--eval_batch_size=16", "--eval_knn=off", "--export=False")
SHRUNK += ("--plots=False",)
TINY = ("--resnet_depth=18", "--num_proj_layers=2", "--proj_out_dim=16", "--warmup_epochs=0")
TINY += ("--learning_rate=0.1", "--log_every_steps=1", *SHRUNK)
DIGITS = ("--dataset=digits", "--image_size=16", "--eval_split=test", *TINY)


def call(*args):
    """Runs a command line in this process; returns the exit code."""
    return run.run_argv(["run.py", *args])


def refusal(capsys, *args):
    """Runs a command line that must be rejected; returns the message."""
    return small.refusal(capsys, ["run.py", *args])


def weights(model_dir):
    return checkpoint_reader.read_weights(str(model_dir))[0]


# ---- in a separate process


def start(*args, cwd):
    """Starts the program as a shell would, without silencing TensorFlow."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, str(ROOT / "tf2" / "run.py"), *args]
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


# The only lines that the program may write to stderr.
STDERR_LINES = (
    r"TensorFlow [\d.]+, Keras [\d.]+, 1 replica\(s\); digits: train 1,437, test 360",
    r"Warning: .*(learning rate|warm-up).*",
    r"\d+ negatives per anchor; .* = [\d.]+ \(both directions\)\.",
    r"\d+ labeled images; their ids are in runs/digits_simclrv2/\w+/labeled_ids\.txt\.",
    r"step \d+/12, epoch [\d.]+, loss [\d.]+, .*lr [\d.]+.*",
)
STEPS = {"pretrained": "pretrain", "fine-tuned": "finetune", "self-distilled": "distill"}
STEPS |= {"distilled student": "student", "supervised baseline": "supervised"}


BARE = ("--mode=train_then_eval", "--train_steps=12", "--train_batch_size=16")
BARE += ("--width_multiplier=0.125", "--student.width_multiplier=0.0625")
BARE += ("--log_every_steps=2", "--seed=1", "--export=False", "--plots=False")
RUN = pathlib.Path("runs") / "digits_simclrv2"


def assert_only_known_lines(stderr):
    lines = stderr.splitlines()
    assert not [s for s in lines if not any(re.fullmatch(p, s) for p in STDERR_LINES)], stderr


def assert_stopped(stdout, stderr, directory):
    """Checks what the bare command leaves after a signal; returns the step of the checkpoint."""
    assert stdout.startswith("No --dataset or --recipe given: using scikit-learn's 1,797 ")
    assert f"{RUN}." in stdout.splitlines()[0]
    *lines, last = stderr.splitlines()
    stopped = re.fullmatch(
        r"Stopped by SIGTERM after step (\d+)\. Repeat the command to resume\.", last
    )
    assert stopped, last
    assert_only_known_lines("\n".join(lines))
    saved = checkpoint_reader.latest_checkpoint(str(directory / RUN / "pretrain"))
    assert saved.endswith(f"ckpt-{stopped[1]}") and int(stopped[1]) < 12
    return stopped[1]


def assert_resumed_and_finished(stdout, step, directory):
    """Compares what the repeated bare command prints with the files that it writes."""
    assert "Resuming the run there" in stdout.splitlines()[0]
    assert f"the run in {RUN}/pretrain from step {step}." in stdout
    parts = re.split(r"^== (\w+), stage \d of 5: ", stdout, flags=re.MULTILINE)[1:]
    assert parts[::2] == list(STEPS.values())
    for name, said in zip(parts[::2], parts[1::2], strict=True):
        result = json.loads((directory / RUN / name / "result.json").read_text())
        assert result["global_step"] == 12.0
        shown = dict(re.findall(r"^  +(\S.*?)  +([\d.]+) %", said, re.MULTILINE))
        titles = {
            "top-1 accuracy": "label_top_1_accuracy",
            "top-5 accuracy": "label_top_5_accuracy",
        }
        if name == "pretrain":
            titles |= {
                "kNN accuracy of the frozen features": "knn_accuracy",
                "the same network untrained": "knn_accuracy_untrained",
                "majority-class accuracy": "majority_class_accuracy",
            }
        for title, key in titles.items():
            assert float(shown[title]) == pytest.approx(100 * result[f"eval/{key}"], abs=0.005)
        written = said.split("Written to ")[1]
        assert written.startswith(f"{RUN}/{name}:")
        for file in ("ckpt-12", "model.json", "flags.json", "result.json"):
            assert file in written and list((directory / RUN / name).glob(file + "*")), file
        if name != "pretrain":
            title = next(title for title, step in STEPS.items() if step == name)
            top_1 = 100 * result["eval/label_top_1_accuracy"]
            row = re.search(
                rf"^\| {title} +\|.* \(4 per class\) +\| ([\d.]+)", stdout, re.MULTILINE
            )
            assert float(row[1]) == pytest.approx(top_1, abs=0.051)
    assert f"Written to {RUN}: results.md, results.csv, results.png" in stdout


def stop_after_step_2(cwd):
    """Runs the bare command until a signal stops it; returns what it wrote."""
    with start(*BARE, cwd=cwd) as process:
        stderr = ""
        while "step 2/12" not in stderr:
            line = process.stderr.readline()
            assert line, stderr
            stderr += line
        process.send_signal(signal.SIGTERM)
        stdout, rest = process.communicate(timeout=120)
    assert process.returncode == 143
    return stdout, stderr + rest


def test_a_signal_stops_the_bare_command_with_a_checkpoint(tmp_path):
    assert_stopped(*stop_after_step_2(tmp_path), tmp_path)


def test_the_bare_command_runs_all_stages_resumes_after_a_signal_and_prints_results(
    tmp_path, monkeypatch, capsys, small_backbone
):
    """In this process, with one convolution in place of the ResNet."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopSignal", small.SecondReport)
        assert call(*BARE) == 143
    step = assert_stopped(*capsys.readouterr(), tmp_path)
    assert call(*BARE) == 0
    stdout, stderr = capsys.readouterr()
    assert_only_known_lines(stderr)
    assert_resumed_and_finished(stdout, step, tmp_path)


@pytest.mark.slow
def test_processes_of_the_bare_command_run_all_stages_of_a_resnet(tmp_path):
    """README's first command as a user runs it, with both tests above in one directory."""
    step = assert_stopped(*stop_after_step_2(tmp_path), tmp_path)
    with start(*BARE, cwd=tmp_path) as process:
        stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0
    assert_only_known_lines(stderr)
    assert_resumed_and_finished(stdout, step, tmp_path)


def test_sigint_during_training_saves_a_checkpoint_and_exits_with_130(
    tmp_path, monkeypatch, capsys, small_backbone
):
    update = progress.Progress.update

    def interrupt(self, step, *args):
        update(self, step, *args)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress.Progress, "update", interrupt)
    assert call(*DIGITS, "--train_steps=3", f"--model_dir={tmp_path}") == 130
    assert "Stopped by SIGINT after step 1. Repeat the command to resume" in capsys.readouterr().err
    assert checkpoint_reader.latest_checkpoint(str(tmp_path)).endswith("ckpt-1")


# ---- published commands


def expanded(what, place):
    """Returns a published command with its variables as a shell would fill them in."""
    values = {
        "MODEL_DIR": place,
        "DATA_DIR": "data",
        "CHKPT_DIR": "chkpt",
        "TPU_NAME": "nowhere",
    }
    return [
        re.sub(r"\$([A-Z_]+)", lambda found: str(values[found[1]]), arg) for arg in COMMANDS[what]
    ]


def write_cifar10(data_dir, train=64, test=32):
    """Prepares a CIFAR-10 of random images in the files of TensorFlow Datasets."""
    import tensorflow_datasets as tfds

    random = np.random.RandomState(0)

    def examples(count):
        for i in range(count):
            image = random.randint(0, 256, (32, 32, 3), dtype=np.uint8)
            yield i, {"id": f"{i:05d}", "image": image, "label": i % 10}

    builder = tfds.builder("cifar10", data_dir=str(data_dir))
    splits = {"train": examples(train), "test": examples(test)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(builder), "_split_generators", lambda *_: splits)
        builder.download_and_prepare()


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """Directory of the real CIFAR-10 where it stands, else of a made one."""
    if (CIFAR / "cifar10").is_dir():
        return CIFAR
    directory = tmp_path_factory.mktemp("tfds")
    write_cifar10(directory)
    return directory


@pytest.fixture(scope="module")
def pretrained(cifar10, tmp_path_factory, one_block_per_group):
    """MODEL_DIR after the published pretraining, shrunk."""
    place = tmp_path_factory.mktemp("published")
    command = expanded("CIFAR-10 pretraining (TF1 and TF2 READMEs)", place)
    assert call(*command, *SHRUNK, f"--data_dir={cifar10}") == 0
    return place


def test_published_linear_evaluation_starts_from_published_pretraining(pretrained, cifar10):
    command = expanded("CIFAR-10 linear evaluation (TF1 README)", pretrained)
    assert call(*command, *SHRUNK, f"--data_dir={cifar10}") == 0
    before, after = weights(pretrained / "simclr_test"), weights(pretrained / "simclr_test_ft")
    backbone = [name for name in after if name.startswith("backbone/")]
    assert len(backbone) > 60
    for name in backbone:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert np.any(after["supervised_head/dense/kernel"])
    result = json.loads((pretrained / "simclr_test_ft" / "result.json").read_text())
    assert result["global_step"] == 2.0 and "eval/label_top_5_accuracy" in result


def test_a_published_command_runs_unchanged(tmp_path, monkeypatch, small_backbone):
    monkeypatch.chdir(tmp_path)
    write_cifar10("cifar10/")
    command = expanded("CIFAR-10 with sqrt scaling (a user's command, public issue 129)", tmp_path)
    assert call(*command, *SHRUNK) == 0
    stored = json.loads((tmp_path / "pretrain_model" / "model.json").read_text())
    assert (stored["architecture"]["proj_out_dim"], stored["global_step"]) == (64, 2)


def test_evaluation_reads_all_settings_from_model_dir(pretrained, capsys, caplog):
    place = pretrained / "simclr_test"
    capsys.readouterr()
    assert (
        call(
            "--mode=eval",
            f"--model_dir={place}",
            "--eval_batch_size=16",
            "--eval_steps=1",
            "--eval_knn=off",
        )
        == 0
    )
    gc.collect()
    said = capsys.readouterr().out
    assert "Results on cifar10/test" in said and "digits" not in said
    assert "could not be found" not in caplog.text  # TensorFlow, of the unused optimizer
    assert json.loads((place / "result.json").read_text())["global_step"] == 2.0


@pytest.mark.parametrize("what", [w for w in COMMANDS if "TPU" in w], ids=lambda w: w[:24])
def test_published_tpu_commands_report_that_no_tpu_is_available(
    what, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(early_checks, "check", lambda _: None)  # there is no checkpoint either
    said = refusal(capsys, *expanded(what, tmp_path), "--tpu_name=")
    assert "No TPU could be reached" in said and "--strategy=auto" in said
    assert not list(tmp_path.iterdir())


# ---- bad input: one line, exit code 1


REJECTED = [
    (["--dataset=cifar11"], "dataset='cifar11'. Did you mean cifar10"),
    (["--train_split=trian"], "trian"),
    (["--mode=train_then_eval", "--eval_split=tset"], "tset"),
    (["--dataset=folder"], "Set --data_dir"),
    (
        ["--dataset=folder", "--data_dir=nowhere"],
        "'nowhere', which does not exist. Correct --data_dir",
    ),
    (["--dataset=folder", "--data_dir=texts"], "without images"),
    (["--train_batch_size=2048"], "1437.*train_batch_size=2048"),
    (["--train_batch_size=0"], "train_batch_size=0"),
    (["--image_size=-32"], "image_size=-32"),
    (["--train_steps=-1"], "train_steps=-1"),
    (["--eval_batch_size=0"], "eval_batch_size=0"),
    (["--width_multiplier=0"], "width_multiplier=0"),
    (["--strategy=mirrored", "--train_batch_size=18"], "replicas, 4. Received.*=18. Use 16"),
    (["--strategy=multiworker"], "TF_CONFIG"),
    (["--temperature=0"], "temperature=0"),
    (["--ft_proj_selector=3"], "ft_proj_selector=3. Use 0 to 2"),
    (["--fine_tune_after_block=2"], "--train_mode=finetune"),
    (["--optimizer=larz"], "Did you mean lars"),
    (["--train_mode=finetune"], "Set --checkpoint"),
    (["--train_mode=finetune", "--checkpoint=nowhere"], "nowhere"),
    (["--model_dir=file"], "model_dir=file. Choose another"),
    (["--model_dir=file/below"], "model_dir=file/below. Choose another"),
    (["--mode=eval"], "without a model.json"),
    (["--use_tpu=True"], "No TPU could be reached"),
    (["--recipe=digit"], "Did you mean digits"),
]


@pytest.mark.parametrize("args, words", REJECTED, ids=[" ".join(args) for args, _ in REJECTED])
def test_bad_input_prints_one_line(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("not an image")
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert re.search(words, refusal(capsys, *DIGITS, "--model_dir=run", *args))
    assert not (tmp_path / "run").exists()


def test_a_missing_dataset_that_cannot_be_downloaded(tmp_path, monkeypatch, capsys):
    from tf2.sources import tfds_source

    monkeypatch.setattr(tfds_source, "_online", lambda: False)
    said = refusal(
        capsys, *TINY, "--dataset=cifar10", f"--data_dir={tmp_path}", f"--model_dir={tmp_path}/m"
    )
    assert f"not prepared in {tmp_path}" in said and "there is no network" in said


def finetune(checkpoint, model_dir):
    return (
        *("--train_mode=finetune", f"--checkpoint={checkpoint}", f"--model_dir={model_dir}"),
        *("--dataset=digits", "--train_steps=1", "--train_batch_size=16", "--export=False"),
    )


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
def test_a_truncated_checkpoint(part, pretrained, tmp_path, capsys):
    shutil.copytree(pretrained / "simclr_test", tmp_path / "cut")
    damaged = tmp_path / "cut" / f"ckpt-2.{part}"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    said = refusal(capsys, *finetune(tmp_path / "cut", tmp_path / "run"))
    assert "ckpt-2" in said and "Received: " in said


def test_a_checkpoint_of_another_architecture(pretrained, tmp_path, capsys):
    known = pretrained / "simclr_test"
    said = refusal(capsys, *finetune(known, tmp_path / "run"), "--resnet_depth=34")
    assert "resnet_depth=18" in said and "resnet_depth=34" in said and str(known) in said

    # Without its model.json, only names and shapes can tell.
    shutil.copytree(known, tmp_path / "bare")
    (tmp_path / "bare" / "model.json").unlink()
    other = ("--resnet_depth=34", "--width_multiplier=0.25", "--image_size=32")
    said = refusal(capsys, *finetune(tmp_path / "bare", tmp_path / "run"), *other)
    # ResNet-34 has more blocks in its first group; the others are half as wide as asked for.
    for part in ("missing", "backbone/block_group1/1/", "8 for 16", "--allow_partial"):
        assert part in said


def test_model_dir_holds_another_run(pretrained, cifar10, capsys):
    command = expanded("CIFAR-10 pretraining (TF1 and TF2 READMEs)", pretrained)
    changed = ("--optimizer=adam", "--seed=5", f"--data_dir={cifar10}")
    said = refusal(capsys, *command, *SHRUNK, *changed)
    assert "seed=0, optimizer=lars" in said and "seed=5, optimizer=adam" in said


def test_a_full_disk_preserves_the_last_good_checkpoint(
    tmp_path, monkeypatch, capsys, small_backbone
):
    write, full = tf.train.Checkpoint.write, []

    def fail(self, prefix, *args, **kwargs):
        if full:
            pathlib.Path(f"{prefix}.data-00000-of-00001").write_bytes(b"cut")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), prefix)
        full.append(prefix)
        return write(self, prefix, *args, **kwargs)

    monkeypatch.setattr(tf.train.Checkpoint, "write", fail)
    args = (*DIGITS, f"--model_dir={tmp_path}", "--checkpoint_steps=1")
    said = refusal(capsys, *args)
    assert "needs space, and none is left" in said and str(tmp_path) in said
    assert checkpoint_reader.latest_checkpoint(str(tmp_path)).endswith("ckpt-1")
    assert all(np.isfinite(value).all() for value in weights(tmp_path).values())


def test_a_failing_process_exits_with_1_and_prints_one_line(tmp_path):
    with start("--dataset=folder", "--data_dir=nowhere", cwd=tmp_path) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("run.py: The data_dir must be a folder")
    assert "Traceback" not in stderr


# ---- own images


def encoded(seed, kind):
    """Returns a random image of a random size, in color or gray, encoded as `kind`."""
    random = np.random.RandomState(seed)
    shape = tuple(random.randint(9, 60, 2)) + ((3,) if seed % 3 else ())
    buffer = io.BytesIO()
    Image.fromarray(random.randint(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


KINDS = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "gif": "GIF", "JPEG": "JPEG"}


def write_images(root, count, seed=0):
    """Writes images of all formats in turn; returns their names."""
    root.mkdir(parents=True, exist_ok=True)
    suffixes = list(KINDS)
    names = [f"{i:03d}.{suffixes[i % len(suffixes)]}" for i in range(count)]
    for i, name in enumerate(names):
        (root / name).write_bytes(encoded(seed + i, KINDS[suffixes[i % len(suffixes)]]))
    return names


FOLDER = ("--dataset=folder", "--image_size=24", "--train_batch_size=8", "--eval_steps=0")


def test_a_folder_of_classes_and_an_unreadable_image(tmp_path, capsys, small_backbone):
    images, model_dir = tmp_path / "images", tmp_path / "run"
    for number, name in enumerate(("ape", "bee", "cat")):
        write_images(images / "train" / name, 8, seed=100 * number)
        write_images(images / "val" / name, 3, seed=100 * number + 50)
    (images / "train" / "bee" / "zzz.png").write_bytes(encoded(7, "PNG")[:60])
    command = (*TINY, *FOLDER, f"--data_dir={images}", f"--model_dir={model_dir}")
    command += ("--mode=train_then_eval", "--eval_split=val")

    said = refusal(capsys, *command)  # 1 of 34 is more than 1%
    for part in ("1 of 34 images", "train/bee/zzz.png", "max_bad_fraction=0.01", "Repair"):
        assert part in said
    assert "train/bee/zzz.png\t" in (model_dir / "unreadable_images.txt").read_text()
    assert not list(model_dir.glob("ckpt-*"))

    assert call(*command, "--max_bad_fraction=0.05") == 0
    assert "train/bee/zzz.png\t" in (model_dir / "unreadable_images.txt").read_text()
    stored = json.loads((model_dir / "model.json").read_text())
    assert stored["class_names"] == ["ape", "bee", "cat"]
    result = json.loads((model_dir / "result.json").read_text())
    # Of 9 images, and too few classes for a top 5.
    ninths = result["eval/label_top_1_accuracy"] * 9
    assert ninths == pytest.approx(round(ninths), abs=1e-4)
    assert "eval/label_top_5_accuracy" not in result


def test_a_folder_without_classes_pretrains_without_the_online_classifier(
    tmp_path, capsys, small_backbone
):
    write_images(tmp_path / "images", 12)
    command = (*TINY, *FOLDER, f"--data_dir={tmp_path}/images", f"--model_dir={tmp_path}/run")
    assert call(*command) == 0
    assert "without the online linear classifier" in capsys.readouterr().out
    assert not [name for name in weights(tmp_path / "run") if name.startswith("supervised_head")]

    said = refusal(capsys, *command, "--train_mode=supervised", f"--model_dir={tmp_path}/other")
    assert "needs labels" in said


def test_a_manifest_names_images_labels_and_splits(tmp_path, small_backbone):
    names = write_images(tmp_path / "images", 14)
    rows = [
        f"images/{name},{'even' if i % 2 == 0 else 'odd'},{'train' if i < 10 else 'test'}"
        for i, name in enumerate(names)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *reversed(rows)]) + "\n")
    command = (*TINY, *FOLDER, f"--data_dir={tmp_path}/list.csv", f"--model_dir={tmp_path}/run")
    command += ("--train_mode=supervised", "--mode=train_then_eval", "--eval_split=test")
    assert call(*command) == 0
    stored = json.loads((tmp_path / "run" / "model.json").read_text())
    assert stored["class_names"] == ["even", "odd"]
    quarters = json.loads((tmp_path / "run" / "result.json").read_text())
    quarters = quarters["eval/label_top_1_accuracy"] * 4
    assert quarters == pytest.approx(round(quarters), abs=1e-4)
