"""A process that is killed ends the run with a line of reason, and torchrun lets it go on from the checkpoint."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import processes


def test_a_run_a_process_of_which_is_killed_goes_on_to_the_end(tmp_path):
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    torchrun += ["--master-port", str(processes.free_port()), str(Path(__file__).with_name("killed_run.py"))]
    command = ["train", "--recipe", "digits", "--epochs", "3", "--batch-size", "256", "--device", "cpu", "--out", out]
    path = os.pathsep.join([str(processes.ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *map(str, command)], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said
    for line in said:
        assert line.startswith("error: another process of the group has ended or does not answer (")
    # Killed in the second epoch, it went on from the end of the first.
    assert done.stderr.count("training digits on digits") == 1
    assert done.stderr.count("going on with digits on digits") == 1
    with open(out / "metrics.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert json.loads((out / "result.json").read_text())["epochs"] == 3
    assert not list(out.glob(".*.tmp"))
