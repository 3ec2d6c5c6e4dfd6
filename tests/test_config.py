"""Options set outside the command line: which of several counts, what a mistake says, what a library may set."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import typer

from hashcli import cli, search
from hashcli import config as settings
from hashcli.library import Library


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Write the user's config file; HASHCLI_CONFIG names it."""
    file = tmp_path / "config.toml"
    file.write_text("")
    monkeypatch.setenv("HASHCLI_CONFIG", str(file))
    monkeypatch.setenv("HASHCLI_LIBRARY", str(tmp_path / "library"))
    Library.create(tmp_path / "library")
    return file


@pytest.fixture
def asked(config, monkeypatch):
    """What `query` would have searched with."""
    seen: dict[str, object] = {}
    monkeypatch.setattr(search, "nearest", lambda library, photos, **options: seen.update(options) or [])
    return seen


def query(*words: str) -> int:
    return cli.main(["query", "photo.jpg", *words])


def test_the_nearest_setting_counts(config, asked, tmp_path, monkeypatch):
    order = []

    def top(*words: str) -> object:
        query(*words)
        return asked["top"]

    order.append(top())
    (tmp_path / "library" / "config.toml").write_text("top = 11\n")
    order.append(top())
    config.write_text("top = 12\n")
    order.append(top())
    config.write_text("top = 12\n[query]\ntop = 13\n")
    order.append(top())
    monkeypatch.setenv("HASHCLI_TOP", "14")
    order.append(top())
    monkeypatch.setenv("HASHCLI_QUERY_TOP", "15")
    order.append(top())
    order.append(top("--top", "16"))
    assert order == [10, 11, 12, 13, 14, 15, 16]


SAMPLES = {
    "device": "cpu",
    "finetune": "last",
    "domain": "src",
    "format": "csv",
    "split": "0.5",
    "min-confidence": "0.5",
}


def sample(option: settings.Option) -> str | list[str]:
    """A value that the option takes and that is not its default, as words."""
    if option.param.multiple:
        return ["one=1", "two words"]
    return SAMPLES.get(option.name, "32" if "<IntRange" in repr(option.param.type) or option.name == "bits" else "some")


def by_command() -> dict[str, list[settings.Option]]:
    grouped: dict[str, list[settings.Option]] = {}
    for option in settings.options(typer.main.get_command(cli.app)):
        grouped.setdefault(option.command, []).append(option)
    return grouped


def received(command: str, words: list[str]) -> dict[str, object]:
    """What a command would run with: its parameters after command line, environment and user's file."""
    root = typer.main.get_command(cli.app)
    context = typer.Context(root, info_name="hashcli")
    context.default_map = settings.defaults(settings.user_settings(root))
    *groups, name = command.split("-")
    for group in groups:
        context = typer.Context(root.commands[group], info_name=group, parent=context)
    leaf = context.command.commands[name]
    arguments = ["x" for param in leaf.params if param.param_type_name == "argument" and param.required]
    return leaf.make_context(name, [*arguments, *words], parent=context).params


@pytest.mark.parametrize("command", sorted(by_command()))
def test_every_option_of_a_command_can_be_set_from_the_environment_and_from_the_file(command, config, monkeypatch):
    monkeypatch.delenv("HASHCLI_LIBRARY")
    options = by_command()[command]
    words, lines, variables = [], [], {}
    for option in options:
        value, long = sample(option), f"--{option.name}"
        variable = f"HASHCLI_{command}_{option.name}".upper().replace("-", "_")
        if option.param.is_flag:
            words, lines, value = [*words, long], [*lines, f"{option.name} = true"], "true"
        elif isinstance(value, list):
            words += [word for one in value for word in (long, one)]
            lines.append(f"{option.name} = {json.dumps(value)}")
            value = shlex.join(value)
        else:
            words, lines = [*words, long, value], [*lines, f'{option.name} = "{value}"']
        variables[option.param.envvar or variable] = value  # of a library there is one for all commands
    said = received(command, words)
    plain = {option.param.name: option.param.default for option in options}
    assert all(said[name] != default for name, default in plain.items())

    config.write_text("\n".join([f"[{command}]", *lines]))
    assert received(command, []) == said

    config.write_text("")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert received(command, []) == said


@pytest.mark.parametrize(
    ("text", "line", "says", "hint"),
    [
        ("tpo = 3\n", 1, "there is no option 'tpo'", "did you mean top?"),
        ("\n[query]\ntpo = 3\n", 3, "there is no option 'tpo' of query", "did you mean top?"),
        ("[qery]\ntop = 3\n", 1, "there is no command 'qery'", "did you mean query?"),
        ("[query]\ntop = 0\n", 2, "top", "hashcli query --help"),
        ('[query]\ntop = "many"\n', 2, "top", "hashcli query --help"),
        ("[query]\ntop = true\n", 2, "top: True is not a text or a number", None),
        ("quiet = 3\n", 1, "quiet: 3 is not true or false", None),
        ("include = 3\n", 1, "include: 3 is not a list", None),
        ('format = "tvs"\n', 1, "Did you mean tsv?", None),
        ("top 3\n", None, "is not TOML", "a line looks like this"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_nearest_right_word(config, capsys, text, line, says, hint):
    config.write_text(text)

    assert query() == 2

    said = capsys.readouterr().err
    assert said.startswith(f"error: {config}{f', line {line}' if line else ''}")
    assert says in said
    assert hint is None or f"hint: {hint}" in said or hint in said


def test_a_mistake_in_the_environment_names_the_variable(config, monkeypatch, capsys):
    monkeypatch.setenv("HASHCLI_TOP", "many")

    assert query() == 2
    assert capsys.readouterr().err.startswith("error: HASHCLI_TOP: ")


def test_a_config_file_that_was_named_must_exist(config, capsys):
    config.unlink()

    assert query() == 2
    assert "which HASHCLI_CONFIG names" in capsys.readouterr().err


def test_a_value_for_all_goes_to_the_commands_that_take_it(config, capfd):
    config.write_text('format = "paths"\n')

    assert cli.main(["methods"]) == 0  # knows no format called paths
    assert "\t" in capfd.readouterr().out


def test_lists_come_from_arrays_and_from_words(config, monkeypatch, capsys):
    config.write_text('[index]\nexclude = ["*.gif", "a b"]\n')
    monkeypatch.setenv("HASHCLI_INCLUDE", "'x y' *.jpg")
    cli.main(["config", "index", "-f", "jsonl"])
    rows = {row["option"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}

    assert rows["exclude"]["value"] == "*.gif a b"
    assert rows["include"]["value"] == "x y *.jpg"
    assert rows["include"]["from"] == "environment: HASHCLI_INCLUDE"
    assert rows["prune"]["from"] == "default"


@pytest.mark.parametrize(
    "line", ['report = "/tmp/x"', 'device = "cuda"', "prune = true", 'library = "/"', "open = true"]
)
def test_a_librarys_own_file_sets_nothing_that_is_run_read_or_written(config, asked, tmp_path, capsys, line):
    (tmp_path / "library" / "config.toml").write_text(f"{line}\n")

    assert query() == 2
    said = capsys.readouterr().err
    assert "may not set" in said or "there is no option" in said
    assert not asked


def test_config_shows_places_and_what_is_set(config, tmp_path, capsys, monkeypatch):
    config.write_text("\n[query]\ntop = 3\n")
    assert cli.main(["config", "-f", "jsonl"]) == 0

    *places, row = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(place["option"], place["value"]) for place in places[:2]] == [
        ("user's config file", str(config)),
        ("library", str(tmp_path / "library")),
    ]
    assert row == {"version": 1, "command": "query", "option": "top", "value": "3", "from": f"{config}, line 3"}


def test_the_library_may_be_named_in_the_users_file(config, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HASHCLI_LIBRARY")
    config.write_text(f'library = "{tmp_path}/other"\n')
    assert cli.main(["config", "-f", "tsv"]) == 0

    assert f"\tlibrary\t{tmp_path}/other\tuser's config file\n" in capsys.readouterr().out


def test_help_needs_no_config(config, capsys):
    config.write_text("broken")

    assert cli.main(["--help"]) == 0
    assert cli.main(["config"]) == 2
    assert "is not TOML" in capsys.readouterr().err


def test_without_a_file_and_variables_nothing_is_read(monkeypatch, tmp_path):
    from hashcli import config as module

    monkeypatch.delenv("HASHCLI_CONFIG", raising=False)
    monkeypatch.setattr(module, "user_file", lambda: Path(tmp_path / "none.toml"))
    monkeypatch.setattr(module, "options", None)
    for name in list(os.environ):
        if name.startswith("HASHCLI_") and name not in module.OTHER_VARIABLES:
            monkeypatch.delenv(name)

    assert module.user_settings(None) == []
