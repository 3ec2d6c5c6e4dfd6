"""Documents that are true: generated parts are up to date, links lead somewhere, command blocks run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import jsonschema
import numpy as np
import pytest

from hashcli import cli_output, cli_results
from hashcli.extraction import PhotoFailure
from hashcli.ranking import Match
from hashcli.search import QueryResult
from hashcli.talk import Talk
from tests.conftest import Command

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted([REPOSITORY / "README.md", *DOCS.rglob("*.md")])
BLOCK = re.compile(r"(?ms)(<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$")


def schema(name: str) -> dict[str, object]:
    return json.loads((DOCS / f"schema/{name}.schema.json").read_text())


def imported(file: Path) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(REPOSITORY)) for path in paths]


def test_generated_parts_are_up_to_date():
    generate = imported(DOCS / "generate.py")

    stale = [file.name for file, text in generate.pages() if file.read_text("utf-8") != text]
    assert stale == [], "python docs/generate.py"
    own = generate.own_methods()
    assert sorted(own) == sorted(page.stem for page in (DOCS / "methods").glob("*.md") if page.stem != "README")


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert re.match(r"https?:|mailto:", target) or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_block_is_run_or_says_why_not(page):
    text = page.read_text("utf-8")
    assert text.count("```") % 2 == 0
    for block in BLOCK.finditer(text):
        shown = [line for line in block["text"].splitlines() if re.match(r"(hashcli|pip|make|python) ", line)]
        assert block["language"] == "sh" or block["language"] == "toml" or not shown or block["reason"], block[0]


def test_every_command_has_a_section():
    text = (DOCS / "commands.md").read_text("utf-8")

    for command in ("adapt", "train", "index", "query", "eval", "methods", "config", "library relocate"):
        assert f"\n## hashcli {command}\n" in text


def test_lists_of_commands_tell_each_in_one_whole_line():
    lists = re.findall(r"(?ms)^Commands:\n(.*?)^$", (DOCS / "commands.md").read_text("utf-8"))

    assert "".join(lists).count("\n") > 10
    assert "..." not in "".join(lists)


# ---- the schemas


def results() -> list[QueryResult]:
    found = [
        Match(b"q.jpg", 1, 3, 0.91234, 0.91234, b"/a/b.jpg", "mug;cup", "src", 0.75),
        Match(b"q.jpg", 2, 9, -0.2, None, b"/a/\xff.jpg", None, "tgt", None),
    ]
    return [QueryResult(b"q.jpg", found), QueryResult(b"\xfe.jpg", found[:1])]


@pytest.mark.parametrize("confidence", [False, True])
def test_jsonl_of_query_fits_its_schema(capfd, confidence):
    cli_results.show_results(results(), "jsonl", header=False, null=False, confidence=confidence)

    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(lines) == 3
    described = set(schema("query")["properties"])
    for line in lines:
        jsonschema.validate(line, schema("query"), jsonschema.Draft202012Validator)
        assert set(line) <= described
    assert ("confidence" in lines[0]) == confidence


def test_a_report_fits_its_schema(tmp_path, monkeypatch):
    with pytest.raises(cli_output.typer.Exit):
        failures = [PhotoFailure(b"/a/\xff.jpg", "is not a photo"), PhotoFailure(b"/a/b.jpg", "empty")]
        cli_output.finish(failures, tmp_path / "failed.jsonl", Talk(quiet=True))
    for line in (tmp_path / "failed.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), schema("report"), jsonschema.Draft202012Validator)


def test_the_schema_refuses_what_was_never_promised():
    line = {"version": 1, "query": "q", "rank": 1, "distance": 1, "similarity": 0.5, "path": "/a", "domain": "tgt"}
    line["label"] = None
    jsonschema.validate(line, schema("query"), jsonschema.Draft202012Validator)

    for wrong in ({"rank": 0}, {"version": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(line | wrong, schema("query"), jsonschema.Draft202012Validator)


# ---- the recipes and command blocks, really run


@dataclass(frozen=True)
class World:
    """Some of the demo's digits as studio/, phone/ and held-out/, snapshot.png, and a library that knows them."""

    folder: Path
    hashcli: Command

    def run(self, script: str) -> str:
        """What a script prints; run as a reader would, in the folder, with the installed command on the PATH."""
        path = f"{self.folder.parent / 'bin'}:{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
        environment = self.hashcli.environment({"PATH": path, "DOCS": str(DOCS), "OMP_NUM_THREADS": "1"})
        bash = ["bash", "-euc", script]
        done = subprocess.run(bash, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory, shared_cache) -> World:
    root = tmp_path_factory.mktemp("digits")
    demo = imported(REPOSITORY / "benchmarks/demo_data.py")
    (pixels, digits), (others, their) = demo.mnist(), demo.optdigits()
    rows, rng = demo.per_digit(their, 10, np.random.default_rng(0)).reshape(10, 10), np.random.default_rng(1)
    demo.write(root / "world/studio", demo.by_digit(pixels, digits, demo.per_digit(digits, 12, rng)))
    demo.write(root / "world/phone", ((f"IMG_{n:04d}.png", others[row]) for n, row in enumerate(rows[:, 2:].ravel())))
    demo.write(root / "world/held-out", demo.by_digit(others, their, rows[:, :2].ravel()))
    shutil.copy(root / "world/held-out/7/000.png", root / "world/snapshot.png")
    (root / "home").mkdir()
    made = World(root / "world", Command(root / "home", root / "library", shared_cache))
    made.run("hashcli adapt --src studio --tgt phone --method source-only --set epochs=2 --quiet")
    return made


def run_blocks(page: Path) -> list[str]:
    return [
        block["text"]
        for block in BLOCK.finditer(page.read_text("utf-8"))
        if block["language"] == "sh" and not block["reason"]
    ]


LAST = "recipes.md"  # moves a folder away


@pytest.mark.slow
def test_the_command_blocks_of_all_pages_run(world):
    pages = [page for page in PAGES if run_blocks(page)]
    assert len(pages) > 5
    for page in sorted(pages, key=lambda page: page.name == LAST):
        print(page.relative_to(REPOSITORY))
        world.run("\n".join(run_blocks(page)))


STAND_INS = {
    "fzf": "#!/bin/sh\nhead -zn 1\n",
    "parallel": "#!/bin/sh\nexec hashcli query - --null --format jsonl --quiet\n",
    "date": "#!/bin/sh\necho 7\n",
}


@pytest.mark.slow
def test_the_recipes_run(world):
    for name, text in STAND_INS.items():
        tool = world.folder.parent / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(text)
        tool.chmod(0o755)

    def recipe(line: str) -> str:
        return world.run(line.replace("recipes/", f"{DOCS}/recipes/"))

    assert recipe("recipes/nightly.sh") == ""  # all is well: no mail
    (world.folder / "phone/bad.png").write_bytes(b"no photo")
    assert "1 photos could not be read" in recipe("recipes/nightly.sh || [ $? = 3 ]")
    picked = recipe("recipes/pick.sh snapshot.png")
    assert picked.endswith("\0")
    assert Path(picked[:-1]).exists()
    (world.folder / "phone/bad.png").unlink()
    assert recipe("recipes/copy-matches.sh snapshot.png linked 5") == "5 photos in linked\n"
    assert len(list((world.folder / "linked").iterdir())) == 5
    header, *articles = recipe("LEAST=0 recipes/which-article.sh phone").splitlines()
    assert header == "photo,article,distance,confidence"
    assert len(articles) == len(list((world.folder / "phone").iterdir()))
    assert any(re.fullmatch(r"phone/\S+,\d,\d+,0\.\d+", line) for line in articles)
    lines = recipe("find phone -name '*.png' -print0 | recipes/parallel.sh").splitlines()
    assert all(json.loads(line)["rank"] for line in lines)
    assert lines
