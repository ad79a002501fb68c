"""The files of cluster/ against the schemas of those who read them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import SHARED

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
BIN = Path(sys.executable).parent
KUBERAY = sorted((CLUSTER / "kuberay").glob("ray*.yaml"))
JOBS = {"ingest", "generate", "train", "tune", "evaluate", "poster", "pipeline"}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def strict(schema: Any) -> Any:
    """Kubernetes' schema as JSON schema in which a key that nobody knows is a fault."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    known = {k: strict(v) for k, v in schema.items() if k not in ("description", "default", "format")}
    if "properties" in schema and isinstance(schema["properties"], dict) and schema.get("type") == "object":
        known["properties"] = {k: strict(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            known.setdefault("additionalProperties", False)
    return known


@cache
def definition(kind: str) -> dict[str, Any]:
    """spec of a RayCluster or RayJob, from KubeRay's custom resource definitions."""
    archive = SHARED / "data" / "kuberay-crd.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} in {SHARED / 'data'} (set PHASERAY_SHARED)")
    with tarfile.open(archive) as tar:
        name = next(n for n in tar.getnames() if n.endswith(f"ray.io_{kind.lower()}s.yaml"))
        file = tar.extractfile(name)
        assert file is not None
        versions = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    whole = next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    return strict(whole["properties"]["spec"])


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_takes_the_manifest(path: Path):
    for document in documents(path):
        assert document["apiVersion"] == "ray.io/v1"
        jsonschema.Draft202012Validator(definition(document["kind"])).validate(document["spec"])


def test_the_check_would_notice_a_misspelt_key():
    spec = documents(CLUSTER / "kuberay" / "raycluster.yaml")[0]["spec"]
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="livenesProbe"):
        jsonschema.Draft202012Validator(definition("RayCluster")).validate(spec)


def clusters() -> Iterator[dict[str, Any]]:
    for path in KUBERAY:
        for document in documents(path):
            if document["kind"] == "RayCluster":
                yield document["spec"]
            elif "rayClusterSpec" in document["spec"]:
                yield document["spec"]["rayClusterSpec"]


def test_every_ray_cluster_keeps_the_promises_of_the_readme():
    """Tokens, no root, limits, probes, shared storage; a CPU pool and a GPU pool that shrink to nothing."""
    found = list(clusters())
    assert len(found) == 2
    for spec in found:
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["autoscalerOptions"]["version"] == "v2"
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        pools = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
        assert set(pools) == {"cpu", "gpu"}
        assert all(pool["minReplicas"] == 0 for pool in pools.values())
        pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *pools.values())]
        for pod in pods:
            assert pod["securityContext"]["runAsNonRoot"] is True
            (container,) = pod["containers"]
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert container["readinessProbe"]
            assert container["livenessProbe"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
        assert pods[2]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert "nvidia.com/gpu" not in pods[1]["containers"][0]["resources"]["limits"]


def test_there_is_a_ray_job_for_each_job_and_its_command_is_one_of_ours():
    from phaseray import cli
    from phaseray.config import load

    seen = set()
    for path in KUBERAY:
        (document,) = documents(path)
        if document["kind"] == "RayJob":
            python, script, *arguments = document["spec"]["entrypoint"].split()
            assert python == "python"
            script = script.removeprefix("/opt/phaseray/")
            assert (ROOT / script).is_file()
            seen.add(Path(script).stem)
            assert "activeDeadlineSeconds" in document["spec"]
            arguments = [argument.replace("/opt/phaseray/", f"{ROOT}/") for argument in arguments]
            command = cli.typer.main.get_command(cli.app).commands[Path(script).stem]
            values = command.make_context("job", arguments).params
            assert load(values["config"], values["overrides"])
            assert values["out"].is_absolute()
    assert seen == JOBS == {p.stem for p in (ROOT / "jobs").glob("*.py")}


@pytest.mark.parametrize("name", ["kuberay/storage.yaml", "mlflow/kubernetes.yaml"])
def test_kubernetes_takes_the_manifest(name: str):
    validate = pytest.importorskip("kubernetes_validate")
    for document in documents(CLUSTER / name):
        validate.validate(document, validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_up_takes_the_file(name: str):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up" / f"{name}.yaml").read_text())
    validate_config(prepare_config(config))  # the provider's defaults; then ray-schema.json and what it cannot say
    head = next(c for c in config["head_start_ray_commands"] if "--head" in c)
    assert "--dashboard-host=127.0.0.1" in head
    for command in (head, config["worker_start_ray_commands"][-1]):
        assert command.startswith("RAY_AUTH_MODE=token ")


def test_slurm_script_passes_shellcheck():
    check("shellcheck", CLUSTER / "slurm" / "phaseray.sbatch", CLUSTER / "local" / "cluster.sh")


@pytest.mark.parametrize("name", ["Dockerfile", "mlflow/Dockerfile"])
def test_dockerfile_passes_hadolint_pins_its_base_and_drops_root(name: str):
    check("hadolint", CLUSTER / name)
    text = (CLUSTER / name).read_text()
    assert re.search(r"^FROM \S+:\S*\d+\.\d+\.\d+\S*$", text, re.MULTILINE)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] not in ("0", "root")


def check(tool: str, *files: Path) -> None:
    program = shutil.which(tool, path=BIN) or shutil.which(tool)
    if program is None:
        pytest.skip(f"no {tool}")
    done = subprocess.run([program, *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_images_have_the_versions_that_the_constraints_pin():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert f"rayproject/ray:{pins['ray']}-py311-" in (CLUSTER / "Dockerfile").read_text()
    server = (CLUSTER / "mlflow" / "Dockerfile").read_text()
    for package in ("mlflow", "boto3", "Flask-WTF"):
        assert f"{package}=={pins[package]}" in server
    assert all(spec["rayVersion"] == pins["ray"] for spec in clusters())
    cupy = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"][0]
    assert cupy.startswith("cupy-cuda12x>=")
    assert "cupy-cuda12x==" in (CLUSTER / "Dockerfile").read_text()


def test_the_compose_file_has_accounts_one_address_and_no_secret():
    text = (CLUSTER / "mlflow" / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert services["server"]["ports"] == ["127.0.0.1:5000:5000"]
    assert "ports" not in services["database"]
    for word in ("--app-name basic-auth", "--allowed-hosts", "--artifacts-destination"):
        assert word in text
    for key, value in {**services["server"]["environment"], **services["database"]["environment"]}.items():
        if any(word in key for word in ("PASSWORD", "SECRET", "_KEY")):
            assert re.fullmatch(r"\$\{[A-Z_]+:[?-].*\}", value), key


def test_no_file_holds_a_secret():
    """A value of twenty characters or more behind a name that says secret, in a file that is kept."""
    names = r"(?i)\b[\w-]*(password|secret|token|access[_-]?key)[\w-]*[ ]*[:=][ ]*['\"]?([A-Za-z0-9+/_-]{20,})"
    for path in [*CLUSTER.rglob("*"), *(ROOT / "jobs").iterdir(), ROOT / "Makefile"]:
        if path.is_file():
            found = [m[0] for m in re.finditer(names, path.read_text(errors="replace"))]
            assert not found, path
