"""Files for clusters pass their validators."""

import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


def test_kubernetes_takes_the_resources(tmp_path):
    validate = pytest.importorskip("kubernetes_validate")
    import yaml

    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert [one["kind"] for one in found] == ["PersistentVolumeClaim", "Deployment", "Service"]
    for one in found:
        validate.validate(one, validate.latest_version(), strict=True)
    found[1]["spec"]["replica"] = 2
    with pytest.raises(validate.ValidationError):
        validate.validate(found[1], validate.latest_version(), strict=True)


def test_the_batch_script_is_bash():
    done = subprocess.run(["bash", "-n", DEPLOY / "train.sbatch"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
