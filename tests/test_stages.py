"""SimCLRv2's stages as one run: files, repeated and unchanged stages, precedence of settings."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import types

import ckpt
import numpy as np
import pytest
import small
from absl import flags
from PIL import Image

from tf2 import (
    config,
    distribute,
    errors,
    identity,
    loop,
    metrics,
    pipeline,
    recipe,
    run,
    stage_results,
    stages,
)
from tf2.checkpoints import checkpoint_reader, download

pytestmark = pytest.mark.usefixtures("one_convolution")

STAGES = ("pretrain", "finetune", "distill", "student", "supervised")
TINY = (
    *("--dataset=digits", "--image_size=16", "--eval_split=test", "--flip=False"),
    *("--resnet_depth=18", "--width_multiplier=0.125", "--num_proj_layers=2", "--proj_out_dim=16"),
    *("--train_batch_size=32", "--train_steps=6", "--checkpoint_steps=3", "--log_every_steps=2"),
    *("--warmup_epochs=0", "--learning_rate=0.01", "--learning_rate_scaling=sqrt"),
    *("--eval_knn=off", "--export=False", "--use_blur=False", "--labels_per_class=2"),
    "--plots=False",
    *("--train_mode=simclrv2", "--mode=train_then_eval", "--finetune.ft_proj_selector=1"),
    *("--finetune.optimizer=adam", "--finetune.learning_rate=0.001"),
)
STUDENT = ("--student.width_multiplier=0.0625",)


def call(*args):
    """Runs a command line; returns the exit code."""
    return run.run_argv(["run.py", *args])


def parse(*args):
    """Returns the Config of a command line, and the notes for the user."""
    values = flags.FlagValues()
    run.define_flags(values)
    values(["run.py", *args])
    return run.build_config(values)


def planned(model_dir, *args):
    """Returns name -> stage of a command line."""
    return {stage.name: stage for stage in stages.plan(parse(*TINY, *args)[0], str(model_dir))}


def read(*path):
    with open(os.path.join(*map(str, path))) as file:
        return json.load(file)


def weights(model_dir):
    return checkpoint_reader.read_weights(str(model_dir))[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_convolution):
    """A whole run: its directory and what it printed."""
    directory, said = tmp_path_factory.mktemp("stages") / "run", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert call(*TINY, *STUDENT, f"--model_dir={directory}") == 0
    return types.SimpleNamespace(directory=directory, said=said.getvalue())


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the whole run, to be changed."""
    shutil.copytree(finished.directory, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def trained(monkeypatch):
    """Lists the configurations that would be trained now, and trains none."""
    configs = []

    def run_job(job):
        configs.append(job.config)
        results = {"eval/label_top_1_accuracy": 0.5} if job.config.evaluates else {}
        return types.SimpleNamespace(named={"a/kernel": np.zeros([2, 3])}), results

    monkeypatch.setattr(pipeline, "run_job", run_job)
    return configs


def names(configs):
    return [os.path.basename(config.model_dir) for config in configs]


# ---- what a whole run leaves


def test_each_stage_has_a_directory_that_records_its_settings(finished):
    assert sorted(p.name for p in finished.directory.iterdir() if p.is_dir()) == sorted(STAGES)
    metadata = {name: read(finished.directory, name, "stage.json") for name in STAGES}
    for name in STAGES:
        assert metadata[name]["finished"] and metadata[name]["seconds"] > 0
        assert read(finished.directory, name, "result.json")["global_step"] == 6.0
        assert {"backbone/stem/conv/kernel"} <= weights(finished.directory / name).keys()
        # Of a finished stage, which saved one every three steps, only the last and the best remain.
        kept = [path.name for path in finished.directory.glob(f"{name}/ckpt-*.index")]
        assert kept == ["ckpt-6.index"]
        assert [path.name for path in finished.directory.glob(f"{name}/best/ckpt-*.index")] == kept
    after = {name: list(found["after"]) for name, found in metadata.items()}
    assert after == {
        "pretrain": [],
        "finetune": ["pretrain"],
        "distill": ["finetune"],
        "student": ["distill"],
        "supervised": [],
    }
    assert metadata["finetune"]["settings"]["learning_rate"] == 0.001
    assert metadata["supervised"]["settings"]["learning_rate"] == 0.01
    shapes = {name: read(finished.directory, name, "model.json")["architecture"] for name in STAGES}
    assert [shapes[name]["width_multiplier"] for name in STAGES] == [0.125] * 3 + [0.0625, 0.125]
    assert [shapes[name]["ft_proj_selector"] for name in STAGES] == [None, 1, 0, 0, 0]


def test_only_the_stages_that_read_labels_have_a_labeled_subset(finished):
    found = {name: read(finished.directory, name, "flags.json") for name in STAGES}
    assert [found[name]["labels_per_class"] for name in STAGES] == [0, 2, 2, 2, 2]
    ids = {
        name: (finished.directory / name / "labeled_ids.txt").read_text().split()
        for name in STAGES
        if (finished.directory / name / "labeled_ids.txt").exists()
    }
    assert list(ids) == ["finetune", "supervised"]  # distillation reads no label
    assert len(set(ids["finetune"])) == 20 and ids["finetune"] == ids["supervised"]
    # Fewer than the batch of 32.
    assert [found[name]["train_batch_size"] for name in STAGES] == [32, 20, 32, 32, 20]
    assert finished.said.count("The batch is all 20 labeled images, fewer than 32.") == 2


def test_the_table_its_csv_and_its_figure_hold_the_results(finished):
    with open(finished.directory / "results.csv") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == [stage_results.TITLES[name] for name in STAGES]
    table = (finished.directory / "results.md").read_text()
    for line in table.splitlines()[2:]:
        assert line in finished.said
    for name in STAGES[1:]:
        row, title = rows[stage_results.TITLES[name]], stage_results.TITLES[name]
        top_1 = read(finished.directory, name, "result.json")["eval/label_top_1_accuracy"]
        assert float(row["top_1"]) == pytest.approx(top_1)
        count = sum(
            int(np.prod(value.shape))
            for key, value in weights(finished.directory / name).items()
            if "moving_" not in key
        )
        assert int(row["parameters"]) == count
        assert row["labels"] == "20 (2 per class)"
        low, high = (100 * float(row[f"top_1_{end}"]) for end in ("low", "high"))
        cell = rf"{100 * top_1:.1f} \({low:.1f} to {high:.1f}\)"
        assert re.search(rf"\| {title} +\| 20 \(2 per class\) \| {cell} .*{count:,}", table)
        assert float(row["num_images"]) == 360 and float(row["majority_class"]) == 0.1
        assert float(row["mean_per_class"]) == pytest.approx(top_1, abs=0.05)
    assert "360 images that were not trained on" in table
    assert (rows["pretrained"]["labels"], rows["pretrained"]["top_1"]) == ("none", "")
    with Image.open(finished.directory / "results.png") as figure:
        figure.load()
        assert figure.size[0] > 600
        expected = np.asarray(figure.convert("RGB"))
    (events,) = finished.directory.glob("events.out.tfevents.*")
    (value,) = (v for event in metrics._events(str(events)) for v in event.summary.value)
    assert value.tag == "results"
    shown = loop.tf.io.decode_png(loop.tf.make_ndarray(value.tensor)[2])
    np.testing.assert_array_equal(shown, expected)


# ---- what is repeated, and what not


def test_a_second_call_trains_nothing_and_prints_so(finished, trained, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.directory.glob("*/ckpt-*")}
    assert call(*TINY, *STUDENT, f"--model_dir={finished.directory}") == 0
    said = capsys.readouterr().out
    assert said.count("nothing to do.") == 5 and not trained
    assert "Continuing" not in said and "supervised baseline" in said
    assert before == {p: p.stat().st_mtime_ns for p in finished.directory.glob("*/ckpt-*")}


@pytest.mark.parametrize(
    "change, again, why",
    [
        (
            "--finetune.learning_rate=0.5",
            ["finetune", "distill", "student"],
            "learning_rate was 0.001, now 0.5",
        ),
        (
            "--pretrain.temperature=0.3",
            ["pretrain", "finetune", "distill", "student"],
            "temperature was 0.1, now 0.3",
        ),
        ("--temperature=0.3", ["pretrain", "finetune", "distill", "student"], "temperature was"),
        ("--distill.distill_temperature=2", ["distill", "student"], "distill_temperature was 1.0"),
        ("--student.width_multiplier=0.25", ["student"], "width_multiplier was 0.0625, now 0.25"),
        # Pretraining reads no labels, and none but distillation has a temperature of its own.
        ("--label_seed=1", list(STAGES[1:]), "label_seed was 0, now 1"),
        ("--distill_temperature=2", ["distill", "student"], "distill_temperature was 1.0, now 2.0"),
        # What doesn't change a network isn't a reason.
        ("--log_every_steps=1", [], ""),
        ("--keep_checkpoint_max=1", [], ""),
        ("--plots=False", [], ""),
        ("--knn_every_epochs=1", [], ""),
        ("--eval_name=again", [], ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_changed_setting_repeats_only_the_stages_that_depend_on_it(
    change, again, why, copied, trained, capsys
):
    kept = weights(copied / "finetune")
    assert call(*TINY, *STUDENT, change, f"--model_dir={copied}") == 0
    said = capsys.readouterr().out
    assert names(trained) == again
    assert said.count("nothing to do.") == 5 - len(again)
    assert why in said
    for name in again[1:] if "label_seed" not in change else ():
        if name != "supervised":
            assert re.search(rf"{name}, stage .*\nRunning it again: .*was run again", said)
    for name in again:  # the earlier one is kept as it was
        assert read(copied, f"{name}.1", "stage.json")["finished"]
        assert f"The earlier directory is now {copied}/{name}.1" in said
    if "finetune" in again:
        for name, value in weights(copied / "finetune.1").items():
            np.testing.assert_array_equal(value, kept[name])


def test_a_run_of_the_former_layout_resumes_without_training(copied, trained, capsys):
    former = {"knn_every_epochs": 3, "plots": False}  # were settings of a stage then
    for name in STAGES:
        stage = read(copied, name, "stage.json")
        stage["settings"].update(former)
        (copied / name / "step.json").write_text(json.dumps(stage))
        (copied / name / "stage.json").unlink()
    args = (*TINY, *STUDENT, f"--model_dir={copied}")
    assert call(*args) == 0 and not trained
    assert capsys.readouterr().out.count("nothing to do.") == 5
    # The identity that later stages recorded stays, too, when a stage is evaluated again.
    assert call(*args, "--finetune.eval_steps=1") == 0
    assert names(trained) == ["finetune"]
    assert not list(copied.glob("*.1"))
    first, second = (read(copied, "finetune", f"{file}.json") for file in ("step", "stage"))
    assert first["identity"] == second["identity"] and "plots" not in second["settings"]
    trained.clear()
    assert call(*args, "--finetune.eval_steps=1") == 0 and not trained


def test_a_second_change_keeps_both_earlier_directories(copied, trained):
    for number, rate in ((1, 0.5), (2, 0.25)):
        call(*TINY, *STUDENT, f"--finetune.learning_rate={rate}", f"--model_dir={copied}")
        assert (copied / f"finetune.{number}" / "stage.json").exists()
    assert read(copied, "finetune.2", "stage.json")["settings"]["learning_rate"] == 0.5


def test_a_stage_killed_before_its_first_checkpoint_is_restarted_in_its_directory(
    copied, trained, capsys
):
    path = copied / "supervised"
    for file in path.glob("ckpt-*"):
        file.unlink()
    killed = {**read(path, "stage.json"), "finished": False}
    (path / "stage.json").write_text(json.dumps(killed))
    assert call(*TINY, *STUDENT, f"--model_dir={copied}", "--supervised.seed=5") == 0
    assert names(trained) == ["supervised"] and not (copied / "supervised.1").exists()
    assert "Running it again" not in capsys.readouterr().out


def test_other_evaluation_settings_evaluate_without_training(copied, capsys):
    shutil.rmtree(copied / "student")
    args = (*TINY, "--eval_steps=1", "--eval_batch_size=10", f"--model_dir={copied}")
    before = (copied / "supervised" / "ckpt-6.index").stat().st_mtime_ns
    stage = planned(copied, *args)["supervised"]
    done = stages.run_stage(stage, loop.tf.distribute.get_strategy())
    said = capsys.readouterr().out
    assert "evaluating it" in said and "already finished at step 6" in said
    assert (copied / "supervised" / "ckpt-6.index").stat().st_mtime_ns == before
    tenths = 10 * done["results"]["eval/label_top_1_accuracy"]
    assert tenths == pytest.approx(round(tenths), abs=1e-4)


def test_training_alone_writes_no_figure_and_evaluating_later_does(tmp_path, trained, capsys):
    args = (*TINY, f"--model_dir={tmp_path}/run")
    assert call(*args, "--mode=train") == 0
    assert names(trained) == ["pretrain", "finetune", "distill", "supervised"]
    assert not (tmp_path / "run" / "results.png").exists()
    assert "top-1" in (tmp_path / "run" / "results.md").read_text()
    trained.clear()
    assert call(*args, "--mode=train") == 0 and not trained
    capsys.readouterr()
    assert call(*args) == 0
    assert len(trained) == 4 and "50.0" in capsys.readouterr().out
    assert (tmp_path / "run" / "results.png").exists()
    trained.clear()
    assert call(*args, "--mode=train") == 0 and not trained


def test_a_stopped_stage_resumes_and_ends_with_the_same_weights(
    copied, finished, monkeypatch, capsys
):
    shutil.rmtree(copied / "finetune")
    args = (*TINY, *STUDENT, f"--model_dir={copied}")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopSignal", small.SecondReport)
        assert call(*args) == 143
    stopped = re.search(
        r"Stopped by SIGTERM after step (\d)\. Repeat the command to resume",
        "".join(capsys.readouterr()),
    )
    assert stopped and 0 < int(stopped[1]) < 6
    assert read(copied, "finetune", "stage.json")["finished"] is False

    assert call(*args) == 0
    said = capsys.readouterr().out
    assert f"Resuming the run in {copied}/finetune from step {stopped[1]}." in said
    assert said.count("nothing to do.") == 4
    expected, found = weights(finished.directory / "finetune"), weights(copied / "finetune")
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize(
    "before, after",
    [
        (("", "run"), ("run", "../run/")),  # the same words would mean another directory
        pytest.param(("run", "./"), ("", "{home}/other/../run"), marks=pytest.mark.slow),
        pytest.param(("", "{home}/link"), ("run", "{home}/run/"), marks=pytest.mark.slow),
    ],
    ids=lambda place: " ".join(place),
)
def test_a_run_resumes_from_any_spelling_of_its_directory(
    before, after, copied, finished, monkeypatch, capsys
):
    home = copied.parent
    (home / "other").mkdir()
    (home / "link").symlink_to(copied)
    shutil.rmtree(copied / "distill")

    def again(place):
        monkeypatch.chdir(home / place[0])
        return call(*TINY, *STUDENT, f"--model_dir={place[1].format(home=home)}")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopSignal", small.SecondReport)
        assert again(before) == 143
    capsys.readouterr()
    assert again(after) == 0
    said = capsys.readouterr().out
    assert said.count("Resuming the run in") == 1 and said.count("nothing to do.") == 4
    assert "Running it again" not in said and not list(home.glob("run/*.1"))
    expected, found = weights(finished.directory / "distill"), weights(copied / "distill")
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_teacher_is_its_directory_however_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "other", "run"):
        (tmp_path / name).mkdir()
    spelled = ("teacher", "./teacher/", str(tmp_path / "teacher"), "run/../teacher")
    found = [planned("run", f"--distill.teacher={path}")["distill"].settings for path in spelled]
    found += [planned(f"{tmp_path}/run/", "--distill.teacher=teacher")["distill"].settings]
    assert found == found[:1] * 5
    assert planned("run", "--distill.teacher=other")["distill"].settings not in found
    # The path of a stage of this run is that stage.
    (tmp_path / "run" / "finetune").mkdir()
    stage = planned("run", f"--distill.teacher={tmp_path}/run/finetune")["distill"]
    assert stage.settings["teacher"] == ["finetune"]
    assert stage.settings == planned(str(tmp_path / "run"))["distill"].settings


def test_stages_start_from_released_networks_by_name(tmp_path, monkeypatch):
    asked = []

    def fetch(name):
        (tmp_path / name).mkdir(exist_ok=True)
        asked.append(name)
        return str(tmp_path / name)

    monkeypatch.setattr(download, "download", fetch)
    planned_stages = planned(tmp_path / "run", "--checkpoint=r50_1x_sk1_pretrained")
    assert list(planned_stages) == ["finetune", "distill", "supervised"]
    assert planned_stages["finetune"].config.checkpoint == str(tmp_path / "r50_1x_sk1_pretrained")
    planned_stages = planned(
        tmp_path / "run", "--distill.teacher=finetune,r50_1x_sk1_finetuned_1pct"
    )
    there = [str(tmp_path / "run" / "finetune"), str(tmp_path / "r50_1x_sk1_finetuned_1pct")]
    assert list(planned_stages["distill"].config.teachers) == there
    assert asked == ["r50_1x_sk1_pretrained", "r50_1x_sk1_finetuned_1pct"]
    with pytest.raises(errors.UserError, match="r50_1x_sk1_pretraind, which is neither. Did you"):
        planned(tmp_path / "run", "--checkpoint=r50_1x_sk1_pretraind")
    with pytest.raises(errors.UserError, match="must be a path or a released network. Received"):
        planned(tmp_path / "run", f"--checkpoint={tmp_path}/nowhere")


def test_every_stage_has_the_network_of_a_tf1_checkpoint(tmp_path):
    prefix = tmp_path / "released" / "model.ckpt-3"  # with no metadata beside it
    ckpt.write_tf1(prefix, ckpt.released(ckpt.shapes(), ema=False))
    values = [
        arg for arg in TINY if not arg.startswith(("--width", "--resnet", "--num_proj", "--proj"))
    ]
    config, _ = parse(*values, f"--checkpoint={prefix}")
    for stage in stages.plan(config, str(tmp_path / "run")):
        found = stage.config.resnet_depth, stage.config.width_multiplier, stage.config.stem
        assert found == (18, 0.125, "cifar"), stage.name


@pytest.mark.parametrize(
    "teacher, model_dir, same",
    [
        ("/a/t", "/a/run", True),
        ("/a/x/../t/", "/elsewhere", True),
        ("/a/run/../t", "/a/run", True),
        ("/b/t", "/b/run", True),  # moved together
        ("/b/t", "/a/run", False),
        ("/a/t,/a/t", "/a/run", False),
        ("", "/a/run", False),
    ],
)
def test_a_resumed_run_has_the_same_teachers(teacher, model_dir, same):
    stored = {**config.Config().as_flags(), "teacher": "/a/t", "model_dir": "/a/run"}
    stored["train_mode"] = "distill"
    asked = config.Config(train_mode="distill", teacher=teacher, model_dir=model_dir)
    expected = (
        contextlib.nullcontext() if same else pytest.raises(errors.UserError, match="teacher=")
    )
    with expected:
        identity.check_same_run(model_dir, stored, asked)


def test_a_failing_stage_leaves_the_earlier_ones_finished(tmp_path, trained, monkeypatch, capsys):
    train = pipeline.run_job

    def fail(job):
        if job.config.train_mode == "distill":
            raise errors.UserError("The disk is full.")
        return train(job)

    args = (*TINY, *STUDENT, f"--model_dir={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run_job", fail)
        assert call(*args) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == "run.py: The disk is full."
    found = {name: read(tmp_path, name, "stage.json")["finished"] for name in STAGES[:3]}
    assert found == {"pretrain": True, "finetune": True, "distill": False}
    trained.clear()
    assert call(*args) == 0
    assert names(trained) == ["distill", "student", "supervised"]


# ---- where a stage starts


def test_a_checkpoint_replaces_pretraining(finished, tmp_path, trained):
    pretrained = finished.directory / "pretrain"
    own = [f for f in TINY if not f.startswith(("--width", "--resnet", "--num_proj", "--proj_out"))]
    assert call(*own, f"--checkpoint={pretrained}", f"--model_dir={tmp_path}") == 0
    assert names(trained) == ["finetune", "distill", "supervised"]
    assert trained[0].checkpoint == str(pretrained)
    assert [job.checkpoint for job in trained[1:]] == [None, None]
    for job in trained:  # one network in all stages: the checkpoint's
        assert (job.resnet_depth, job.width_multiplier, job.num_proj_layers) == (18, 0.125, 2)


def test_the_stages_of_a_recipe_start_from_a_given_checkpoint(tmp_path):
    prefix = tmp_path / "released" / "model.ckpt-3"
    ckpt.write_tf1(prefix, ckpt.released(ckpt.shapes(), ema=False))
    values = ("--mode=train_then_eval", "--train_mode=simclrv2", "--recipe=cifar10_small")
    network = (f"--width_multiplier={ckpt.SMALL['width_multiplier']}", "--proj_out_dim=16")
    config, _ = parse(*values, *network, f"--checkpoint={prefix}")
    found = {stage.name: stage.config.checkpoint for stage in stages.plan(config, str(tmp_path))}
    given = str(prefix)  # the recipe has the same-size student start from "pretrain"
    expected = {"finetune": given, "distill": given, "student": None, "supervised": None}
    assert found == expected


def test_a_teacher_is_the_fine_tuned_network_or_that_of_any_earlier_stage(tmp_path):
    found = planned(tmp_path, *STUDENT)
    assert found["distill"].config.teachers == (f"{tmp_path}/finetune",)
    assert found["student"].config.teachers == (f"{tmp_path}/distill",)

    found = planned(tmp_path, *STUDENT, "--student.teacher=finetune,distill")
    assert found["student"].config.teachers == (f"{tmp_path}/finetune", f"{tmp_path}/distill")
    assert [stage.name for stage in found["student"].after] == ["finetune", "distill"]
    assert found["student"].settings["teacher"] == ["finetune", "distill"]

    found = planned(tmp_path, "--distill.teacher=pretrain", "--distill.checkpoint=pretrain")
    assert [stage.name for stage in found["distill"].after] == ["pretrain"]
    assert found["distill"].config.checkpoint == f"{tmp_path}/pretrain"

    outside = tmp_path / "teacher"
    outside.mkdir()
    found = planned(tmp_path, f"--distill.teacher={outside}")
    assert found["distill"].config.teacher == str(outside) and not found["distill"].after


def test_a_student_is_trained_if_its_network_is_given(tmp_path):
    assert "student" not in planned(tmp_path)
    assert "student" not in planned(tmp_path, "--student.train_steps=3")
    assert "student" in planned(tmp_path, "--student.resnet_depth=34")


@pytest.mark.slow
def test_two_replicas_run_all_stages_under_one_strategy(tmp_path, monkeypatch):
    made, used = [], []

    def build(config):
        made.append(distribute.mirrored(["/cpu:0", "/cpu:1"]))
        return made[-1]

    train = pipeline.run_job
    monkeypatch.setattr(distribute, "build_strategy", build)
    monkeypatch.setattr(pipeline, "run_job", lambda job: used.append(job.strategy) or train(job))
    args = [f for f in TINY if not f.startswith(("--train_steps", "--width"))]
    args += ["--train_steps=1", "--width_multiplier=0.0625", "--eval_steps=1"]
    assert call(*args, "--strategy=mirrored", f"--model_dir={tmp_path}") == 0
    assert len(made) == 1 and used == made * 4
    for name in ("pretrain", "finetune", "distill", "supervised"):
        assert read(tmp_path, name, "stage.json")["finished"]
        assert all(np.isfinite(v).all() for v in weights(tmp_path / name).values())


# ---- evaluating


def test_one_stage_is_evaluated_and_the_whole_run_is_an_error_that_names_the_stages(
    finished, capsys
):
    place = finished.directory
    assert call("--mode=eval", f"--model_dir={place}") == 1
    said = capsys.readouterr().err
    for part in ("one stage's checkpoints", "pretrain, finetune, distill", f"{place}/supervised"):
        assert part in said
    assert call("--mode=eval", "--train_mode=simclrv2", f"--model_dir={place}") == 1
    assert "--mode=train_then_eval" in capsys.readouterr().err
    expected = read(place, "distill", "result.json")["eval/label_top_1_accuracy"]
    assert call("--mode=eval", "--eval_knn=off", f"--model_dir={place}/distill") == 0
    assert f"{100 * expected:6.2f} %" in capsys.readouterr().out


# ---- which setting wins


RECIPE = """# For a test.
--learning_rate=2
--finetune.learning_rate=3
--train_steps=2
--finetune.train_steps=3
"""


@pytest.mark.parametrize(
    "given, all_stages, own",
    [
        ((), 0.3, 0.3),
        (("--recipe=made",), 2, 3),
        (("--recipe=made", "--learning_rate=4"), 4, 4),
        (("--recipe=made", "--finetune.learning_rate=5"), 2, 5),
        (("--recipe=made", "--learning_rate=4", "--finetune.learning_rate=5"), 4, 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_command_line_wins_over_the_recipe_and_a_stage_over_all_stages(
    given, all_stages, own, tmp_path, monkeypatch
):
    (tmp_path / "made.flags").write_text(RECIPE)
    monkeypatch.setattr(recipe, "RECIPES", tmp_path)
    given = ("--dataset=digits", "--model_dir=m", *given)
    made, _ = parse(*given, "--train_mode=simclrv2")
    assert made.for_stage("pretrain").learning_rate == all_stages
    assert made.for_stage("supervised").learning_rate == all_stages
    assert made.for_stage("finetune").learning_rate == own
    alone, _ = parse(*given, "--train_mode=finetune", "--checkpoint=c")
    assert alone.learning_rate == own
    assert parse(*given, "--train_mode=supervised")[0].learning_rate == all_stages


def test_the_length_with_the_higher_precedence_replaces_the_other(tmp_path, monkeypatch):
    (tmp_path / "made.flags").write_text(RECIPE)
    monkeypatch.setattr(recipe, "RECIPES", tmp_path)

    def lengths(*given):
        made, _ = parse("--recipe=made", "--train_mode=simclrv2", *given)
        found = [made.for_stage(name) for name in ("pretrain", "finetune")]
        return [(config.train_steps, config.train_epochs) for config in found]

    assert lengths() == [(2, 100), (3, 100)]
    assert lengths("--train_epochs=7") == [(0, 7), (0, 7)]
    assert lengths("--finetune.train_epochs=7") == [(2, 100), (0, 7)]
    assert lengths("--train_steps=9") == [(9, 100), (9, 100)]


def test_labels_chosen_on_the_command_line_replace_the_recipes():
    made, _ = parse("--recipe=digits", "--train_mode=simclrv2", "--label_fraction=0.1")
    assert (made.label_fraction, made.labels_per_class) == (0.1, 0)
    made.validate()


def test_a_flag_of_another_stage_has_no_effect_and_a_note_says_so():
    args = ("--dataset=digits", "--train_mode=pretrain", "--pretrain.temperature=0.4")
    made, notes = parse(*args, "--finetune.learning_rate=7", "--student.width_multiplier=0.5")
    assert (made.temperature, made.learning_rate, made.width_multiplier) == (0.4, 0.3, 1)
    unused = [note for note in notes if "no effect" in note]
    assert [re.match(r"--([\w.]+) has", note)[1] for note in unused] == [
        "finetune.learning_rate",
        "student.width_multiplier",
    ]
    assert "temperature" in made.explicit


def test_a_stage_has_the_default_of_a_flag_that_it_does_not_use():
    made = config.Config(
        train_mode="simclrv2", use_memory=True, temperature=0.7, ft_proj_selector=1
    )
    assert made.for_stage("pretrain").use_memory and made.for_stage("pretrain").temperature == 0.7
    assert made.for_stage("pretrain").ft_proj_selector == 0
    for name in STAGES[1:]:
        assert not made.for_stage(name).use_memory and made.for_stage(name).temperature == 0.1
    assert made.for_stage("finetune").ft_proj_selector == 1


# ---- bad input: one sentence with the stage's name, before anything is trained


REJECTED = [
    (["--finetune.ft_proj_selector=9"], "Stage finetune: .*ft_proj_selector=9. Use 0 to 2"),
    (["--distill.distill_temperature=0"], "Stage distill: .*distill_temperature=0"),
    (["--distill.distill_alpha=1.5"], "Stage distill: .*distill_alpha=1.5"),
    (["--student.resnet_depth=19"], "Stage student: .*Did you mean 18"),
    (["--pretrain.memory_size=-1"], "Stage pretrain: .*memory_size=-1"),
    (["--supervised.checkpoint=finetune"], "Stage supervised: .*scratch"),
    (["--distill.teacher=supervised"], "Stage distill: .*pretrain, finetune.*teacher=supervised"),
    (["--distill.teacher=nowhere"], "distill.teacher=nowhere, which is neither"),
    (["--finetune.checkpoint=nowhere"], "finetune.checkpoint=nowhere, which is neither"),
    (["--distill.train_batch_size=2048"], "Stage distill: .*1437.*train_batch_size=2048"),
    (["--supervised.eval_split=tset"], "Stage supervised: .*tset"),
    (["--student.width_multiplier=0.0625", "--student.train_split=tain"], "Stage student: .*tain"),
    (["--labels_per_class=2000"], "Stage finetune: Class . has only .*labels_per_class=2000"),
    (["--strategy=mirrored", "--student.resnet_depth=18", "--student.train_batch_size=18"],
     "Stage student: .*replicas, 4.*=18. Use 16"),
    (["--teacher=finetune"], "teacher=finetune. Use --distill.teacher"),
    (["--checkpoint=nowhere"], "checkpoint=nowhere, which is neither"),
    (["--finetune.larning_rate=1"], "Stage finetune has no flag larning_rate.*learning_rate"),
    (["--finetune.width_multiplier=1"], "Stage finetune has no flag width_multiplier"),
    (["--finetune.dataset=digits"], "All stages share --dataset"),
    (["--fintune.learning_rate=1"], "A stage is one of.*Did you mean finetune"),
]  # fmt: skip


@pytest.mark.parametrize("args, words", REJECTED, ids=[" ".join(args) for args, _ in REJECTED])
def test_bad_input_is_one_sentence_before_anything_is_trained(
    args, words, tmp_path, monkeypatch, trained, capsys
):
    monkeypatch.chdir(tmp_path)
    assert call(*TINY, "--model_dir=run", *args) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(words, lines[0]), lines
    assert not trained and not (tmp_path / "run").exists()
