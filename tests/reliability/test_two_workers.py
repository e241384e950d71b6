"""Two workers of which one is killed."""

import signal
import time

import pytest
import test_distribute


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_worker_is_killed_the_other_ends_and_a_restart_resumes(killed, tmp_path):
    workers = test_distribute.start_workers(
        tmp_path, "--train_steps=100000", "--checkpoint_steps=4"
    )
    for line in workers[0].stdout:
        if line.startswith("step 8/"):
            break
    workers[killed].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    other = workers[1 - killed]
    output = other.communicate(timeout=240)[0]
    assert time.monotonic() - begin < 120
    assert 0 < other.returncode < 128, output
    assert "Traceback" not in output and "worker" in output.splitlines()[-1], output
    workers[killed].communicate(timeout=60)
    newest = max(int(path.stem.removeprefix("ckpt-")) for path in tmp_path.glob("ckpt-*.index"))
    last = newest + 4
    again = test_distribute.start_workers(tmp_path, f"--train_steps={last}")
    outputs = [worker.communicate(timeout=400)[0] for worker in again]
    assert [worker.returncode for worker in again] == [0, 0], outputs
    assert f"from step {newest}" in outputs[0]
    assert (tmp_path / f"ckpt-{last}.index").exists()
