"""The package as installed: plugins from outside, layers, start-up imports, documents that agree with the code."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import hashcli as package
from hashcli import registry
from hashcli.cli import app
from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.errors import UsageError
from hashcli.method import HashMethod, Run, Task
from hashcli.settings import parse

REPOSITORY = Path(__file__).resolve().parents[1]
TOY = REPOSITORY / "docs/plugin/hashcli-sign-of-mean"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALL = (REPOSITORY / "docs/install.md").read_text(encoding="utf-8")
COMMANDS = ("adapt", "train", "index", "query", "eval", "methods", "config", "library")


# ---- a plugin from outside


@pytest.fixture(scope="module")
def toy_site(tmp_path_factory):
    """A folder into which the example plugin was really installed, offline."""
    work = tmp_path_factory.mktemp("toy")
    source = shutil.copytree(TOY, work / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", work / "site", source], check=True, capture_output=True, text=True)
    return work / "site"


def test_an_installed_plugin_is_listed_beside_the_built_in_methods(hashcli, toy_site):
    listed = hashcli("methods", "--format", "tsv", env={"PYTHONPATH": str(toy_site)}).stdout

    rows = {line.split("\t")[0]: line for line in listed.splitlines()}
    assert {"couple", "itq", "sign-of-mean"} <= set(rows)
    assert "hashcli-sign-of-mean" in rows["sign-of-mean"]
    assert "sign-of-mean" not in hashcli("methods", "--format", "tsv").stdout


def test_an_installed_plugin_shows_its_settings(hashcli, toy_site):
    shown = hashcli("methods", "sign-of-mean", env={"PYTHONPATH": str(toy_site)}).stdout

    assert "middle" in shown
    assert "median" in shown


@pytest.fixture
def toy(toy_site, monkeypatch) -> type[HashMethod]:
    monkeypatch.syspath_prepend(toy_site)
    importlib.invalidate_caches()
    return registry.load("sign-of-mean")


def test_the_toy_plugin_cuts_each_bit_at_the_median(toy, rng):
    features = rng.standard_normal((101, 48)).astype(np.float32) + 3
    method = toy(Task(n_bits=16, feature_dim=48, n_classes=0, seed=4), parse(toy.Settings, [], "sign-of-mean"))

    fitted = method.fit(TrainingData(SourceData(features[:40]), TargetData(features[40:])), Run(seed=4))

    import torch

    with torch.no_grad():
        relaxed = fitted.image(torch.from_numpy(features)).numpy()
    assert relaxed.shape == (101, 16)
    assert np.all(np.abs((relaxed > 1e-5).sum(0) - 50) <= 1)


def test_the_toy_plugin_refuses_more_bits_than_features(toy, rng):
    data = TrainingData(SourceData(rng.standard_normal((9, 20)).astype(np.float32)), None)
    method = toy(Task(n_bits=32, feature_dim=20, n_classes=0, seed=0), parse(toy.Settings, [], "sign-of-mean"))

    with pytest.raises(UsageError, match="at most 20 bits"):
        method.fit(data, Run(seed=0))


# ---- the wheel


def test_the_wheel_holds_every_module_and_the_license(tmp_path):
    tree = tmp_path / "tree"
    for folder in ("hashcli", "plugins"):
        shutil.copytree(REPOSITORY / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for pattern in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        for file in REPOSITORY.glob(pattern):
            shutil.copy(file, tree)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]

    subprocess.run([*command, "--wheel-dir", tmp_path, tree], check=True, capture_output=True, text=True)

    (wheel,) = tmp_path.glob("hashcli-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {f"hashcli/{file.relative_to(tree / 'hashcli')}" for file in (tree / "hashcli").rglob("*.py")}
    modules |= {f"hashcli_plugins/{file.relative_to(tree / 'plugins')}" for file in (tree / "plugins").rglob("*.py")}
    assert modules <= names
    assert "hashcli/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_declared_method_can_be_loaded():
    declared = PROJECT["entry-points"]["hashcli.methods"]

    assert {registry.load(name).__name__ for name in declared} == {
        value.partition(":")[2] for value in declared.values()
    }


# ---- layers


def test_modules_import_downwards_only():
    script = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([script, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


# ---- what starting imports

PROBE = """
import json, os, sys
from hashcli.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def modules_after(hashcli, *arguments, env=None):
    """The exit code of a command, and what its process had imported in the end."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=hashcli.environment(env),
        timeout=900,
        check=True,
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules), done.stdout


def test_help_imports_neither_numpy_nor_rich_nor_torch(hashcli):
    code, modules, out = modules_after(hashcli, "--help")

    assert code == 0
    assert all(command in out for command in COMMANDS)
    assert not modules & {"numpy", "rich", "torch", "PIL", "onnxruntime", "lmdb"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_imports_no_torch_and_no_numpy(hashcli, command):
    code, modules, out = modules_after(hashcli, command, "--help")

    assert code == 0
    assert "Usage" in out
    assert not modules & {"numpy", "rich", "torch"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["methods"], "couple"), (["methods", "couple"], "batch_size"), (["methods", "itq"], "fit_on")],
)
def test_methods_imports_no_torch(hashcli, arguments, word):
    code, modules, out = modules_after(hashcli, *arguments)

    assert code == 0
    assert word in out.split()
    assert not modules & {"torch", "rich", "onnxruntime"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("hashcli ad", "adapt"), ("hashcli adapt --method co", "couple"), ("hashcli adapt --", "--src")],
)
def test_completion_offers_the_word_and_imports_no_torch(hashcli, typed, offered):
    words = {"_HASHCLI_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}

    assert offered in hashcli(env=words, code=None).stdout.split()
    _, modules, _ = modules_after(hashcli, env=words)
    assert not modules & {"torch", "rich", "onnxruntime"}


# ---- documents


def test_one_version_everywhere(hashcli):
    newest = re.search(r"^## \[([^]]+)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert newest is not None
    assert newest[1] == package.__version__ == metadata.version("hashcli")
    assert hashcli("--version").stdout == f"hashcli {package.__version__}\n"
    assert f"version {package.__version__}" in README


def test_the_documents_name_every_command_dependency_and_extra():
    for command in COMMANDS:
        assert f"`hashcli {command}" in README, command
    for dependency in PROJECT["dependencies"]:
        name = re.split(r"[<>=!~\[]", dependency)[0]
        assert f"`{name}`" in INSTALL, name
    for extra in PROJECT["optional-dependencies"]:
        assert f"`{extra}`" in INSTALL, extra


def documented_command_lines() -> list[list[str]]:
    """Every line of the documents' examples that calls hashcli, without comments and pipes."""
    texts = [
        page.read_text(encoding="utf-8") for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    ]
    lines = re.findall(r"^(?:    |\$ |.*[|$] )?hashcli (.+)$", "\n".join(texts), re.MULTILINE)
    return [re.split(r"\s+[#|>]", line)[0].split() for line in lines]


def test_every_option_in_the_documents_exists():
    lines = documented_command_lines()
    assert len(lines) > 10

    helps: dict[tuple[str, ...], str] = {}
    for words in lines:
        command = tuple(words[:2] if words[0] == "library" else words[:1])
        if command[0].startswith("-"):
            continue
        if command not in helps:
            helps[command] = CliRunner().invoke(app, [*command, "--help"]).output
        for option in (word.partition("=")[0] for word in words if word.startswith("-") and word != "-"):
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", helps[command]), f"{command} has no {option}"


def test_every_make_target_in_the_readme_exists():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = {name for line in re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE) for name in line.split()}

    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_pins_name_versions_and_no_place_to_get_them_from():
    pins = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]

    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    pinned = {re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins}
    wanted = (
        PROJECT["dependencies"] + PROJECT["optional-dependencies"]["demo"] + PROJECT["optional-dependencies"]["dev"]
    )
    names = {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[]", need)[0]).lower() for need in wanted} - {"hashcli"}
    assert names <= pinned
