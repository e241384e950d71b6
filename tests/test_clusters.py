"""The commands of docs/clusters.md, with stand-ins for the programs of a cluster."""

import json
import os
import pathlib
import re
import subprocess

import pytest
import yaml

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "clusters.md").read_text()
WORKERS = [f"simclr-{number}.simclr:2222" for number in range(4)]


def block(title, language):
    """Returns the first code block of a section."""
    section = PAGE.split(f"\n## {title}\n")[1]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def cluster(tmp_path):
    """A function that runs a script where `simclr` prints its TF_CONFIG and its flags."""
    programs = {
        "simclr": 'printf "%s\\n%s\\n" "$TF_CONFIG" "$*"',
        "scontrol": f'[ "$*" = "show hostnames node[0-3]" ] && printf "%s\\n" {"a b c d"}',
        "srun": 'for SLURM_PROCID in 0 1 2 3; do export SLURM_PROCID; "$@"; done',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def call(script, **variables):
        environment = {**variables, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True
        )
        lines = done.stdout.splitlines()
        assert all("--strategy=multiworker" in flags for flags in lines[1::2])
        return [json.loads(text) for text in lines[::2]]

    return call


def test_every_task_of_a_slurm_job_is_one_worker_of_the_cluster(cluster):
    found = cluster(block("SLURM", "bash"), SLURM_JOB_NODELIST="node[0-3]")
    assert [config["task"] for config in found] == [
        {"type": "worker", "index": index} for index in range(4)
    ]
    assert {tuple(config["cluster"]["worker"]) for config in found} == {
        ("a:2222", "b:2222", "c:2222", "d:2222")
    }


def test_every_pod_of_a_kubernetes_job_is_one_worker_of_the_cluster(cluster):
    service, job = yaml.safe_load_all(block("Kubernetes", "yaml"))
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completions"] == spec["parallelism"] == len(WORKERS)
    (container,) = pod["containers"]
    assert container["command"] == ["bash", "-c"]
    (found,) = cluster(container["args"][0], JOB_COMPLETION_INDEX="2")
    assert found == {"cluster": {"worker": WORKERS}, "task": {"type": "worker", "index": 2}}


def test_a_cluster_by_hand_is_valid_json(cluster):
    (found,) = cluster(block("By hand", "bash"))
    assert found["task"]["index"] == 0 and len(found["cluster"]["worker"]) == 2
