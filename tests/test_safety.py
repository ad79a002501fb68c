"""No pickle, no foreign schemes, no secret in what is written or said."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phaseray.config import ConfigError, TrackingConfig, load
from phaseray.sources.locations import is_remote
from phaseray.submit import Request
from phaseray.tracking import prepare
from phaseray.training import checkpoint

ROOT = Path(__file__).parents[1]
PICKLERS = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "cPickle")
LOADERS = {("torch", "load"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle"), ("yaml", "load")}
SECRET = "f00dfeed" * 6


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("phaseray", "jobs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def test_no_module_unpickles_or_evaluates():
    """Ray pickles what goes between its own processes; what comes from a disk is never unpickled."""
    found = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [(path, a.name) for a in node.names if a.name.split(".")[0] in PICKLERS]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLERS:
                found.append((path, node.module))
            elif isinstance(node, ast.Call):
                f = node.func
                told_not_to = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
                named = isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)
                if named and (f.value.id, f.attr) in LOADERS and not told_not_to:
                    found.append((path, f"{f.value.id}.{f.attr}"))
                if isinstance(f, ast.Name) and f.id in ("eval", "exec"):
                    found.append((path, f.id))
                if any(k.arg == "shell" and getattr(k.value, "value", None) for k in node.keywords):
                    found.append((path, "shell=True"))
    assert found == []


class _Trap:
    def __reduce__(self):
        return (os.system, ("touch sprung",))


def test_a_checkpoint_that_is_a_pickle_is_refused_and_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in (checkpoint.MODEL_JSON, checkpoint.MODEL_WEIGHTS):
        (tmp_path / name).write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.load_checkpoint(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_config_makes_no_objects(tmp_path: Path):
    config = tmp_path / "c.yaml"
    config.write_text(f"seed: !!python/object/apply:os.system ['touch {tmp_path}/sprung']\n")
    with pytest.raises(ConfigError):
        load(config)
    with pytest.raises(ConfigError):
        load(None, [f"seed=!!python/object/apply:os.system ['touch {tmp_path}/sprung']"])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("uri", ["http://host/a.cif", "ftp://host/a", "file:///etc/passwd", "hdfs://host/a", "data:,x"])
def test_only_s3_and_gs_are_remote(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All else is a path, and such a path is not there."""
    from phaseray.crystal import Rejection
    from phaseray.sources import list_inputs

    monkeypatch.chdir(tmp_path)
    assert not is_remote(uri)
    config = load(None, [f"ingest.sources=[{{kind: cif, path: '{uri}'}}]"])
    with pytest.raises((ConfigError, Rejection, ValueError, OSError)):
        list(list_inputs(config.ingest.sources, 0))


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{SECRET}@host",
        f"postgresql://me:{SECRET}@host/db",
        "ftp://host",
        "file:///runs",
        "runs",
        "s3://b/runs",
    ],
)
def test_a_tracking_uri_is_of_a_known_kind_and_holds_no_password(uri: str, tmp_path: Path):
    with pytest.raises(ConfigError) as refused:
        load(None, [f"tracking.uri={uri}"])
    assert SECRET not in str(refused.value)


def test_options_of_a_store_hold_no_keys():
    with pytest.raises(ConfigError, match="secret_key"):
        load(None, [f"ingest.sources=[{{kind: cif, path: 's3://b', options: {{secret_key: {SECRET}}}}}]"])


def test_nothing_secret_is_written_or_said(tmp_path: Path, private_home: Path):
    """The whole way with secrets in the environment: no file, no line, no MLflow param holds one of them."""
    names = (
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN",
        "PHASERAY_ANYTHING",
    )  # fmt: skip
    settings = [
        "ingest.sources=[{kind: synthetic, count: 12}]", "generate.grid.n=12", "generate.d_min=2.4", "ray.num_cpus=4",
        "ray.actors=1",
    ]  # fmt: skip
    code = (
        "import sys\nfrom pathlib import Path\nfrom phaseray import config\n"
        "from phaseray.pipeline.catalogue import ingest\n"
        "from phaseray.tracking import prepare, flat_params\n"
        "c = config.load(None, sys.argv[2:])\nout = Path(sys.argv[1])\n"
        "print(ingest(c, out))\n"
        "with prepare(c.tracking, out).start('run', params=flat_params(c.train)).ending() as run:\n"
        "    run.metrics({'a': 1.0})\n    run.dataset('d', out)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out"), *settings], capture_output=True, text=True, timeout=100,
        env=os.environ | dict.fromkeys(names, SECRET) | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 3
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_a_request_says_nothing_of_the_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    request = Request("generate", ["--out", "/o; rm -rf /"], Path("/o"))
    assert SECRET not in repr(request)
    assert request.entrypoint == "python jobs/generate.py --out '/o; rm -rf /'"  # one word to the shell


def test_the_store_of_a_tracking_uri_is_said_without_what_the_environment_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError) as refused:
        prepare(TrackingConfig(uri="http://127.0.0.1:9"), tmp_path)
    assert SECRET not in str(refused.value)
    assert json.dumps(str(refused.value))
