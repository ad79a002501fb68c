"""The walls of the house: who may import whom, and what a plain import may cost."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("ray", "torch", "mlflow", "pymatgen", "matplotlib", "pandas", "pyarrow", "scipy")


def test_the_import_contracts_hold(tmp_path: Path):
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--cache-dir", str(tmp_path), "--config", "pyproject.toml", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import phaseray",
        "import phaseray.config",
        "import phaseray.sources",
        "from phaseray.crystal import Crystal",
        "from phaseray.sources import synthetic_crystal, list_inputs, prototype",
    ],
)
def test_a_plain_import_stays_light(statement: str):
    """pymatgen alone takes seconds to import; what only a caller of one function needs waits for the call."""
    code = f"{statement}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


def test_public_names_lead_to_what_they_name():
    import phaseray
    import phaseray.sources

    for package in (phaseray, phaseray.sources):
        assert set(package.__all__) <= set(dir(package))
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        with pytest.raises(AttributeError, match="no_such_name"):
            package.no_such_name  # noqa: B018
