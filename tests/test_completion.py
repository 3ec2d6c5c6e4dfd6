"""Shell completion: what bash, zsh and fish are offered, and that each offer is one line."""

from __future__ import annotations

import pytest

from hashcli import cli

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def offered(monkeypatch, capfd, tmp_path):
    """The words that a shell is offered after what was typed, the last word being incomplete."""
    monkeypatch.setenv("HASHCLI_CACHE", str(tmp_path / "cache"))
    record = tmp_path / "cache" / "backbones" / "a" / "backbone.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"spec": {"name": "timm:resnet18"}}')

    def ask(shell: str, typed: str) -> list[str]:
        monkeypatch.setenv("_HASHCLI_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", typed)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit):
            cli.app(args=[], prog_name="hashcli")
        out = capfd.readouterr().out
        if shell == "zsh":
            lines = [line.strip("()'_ ") for line in out.replace("_arguments '*: :((", "").splitlines()]
            return [line.split('"')[1].replace("\\\\:", ":") for line in lines if line.startswith('"')]
        return [line.split("\t")[0] for line in out.splitlines()]

    return ask


OFFERS = {
    "hashcli q": {"query"},
    "hashcli library re": {"repair", "relocate"},
    "hashcli adapt --method co": {"coral-itq", "couple"},
    "hashcli eval --method itq,co": {"itq,coral-itq", "itq,couple"},
    "hashcli methods dc": {"dcgh"},
    "hashcli train --backbone t": {"timm:resnet18", "timm:", "torchvision:"},
    "hashcli train --backbone eff": {"efficientnet_lite0"},
    "hashcli adapt --method itq --set it": {"iterations="},
    "hashcli query --format j": {"jsonl"},
    "hashcli query --min": {"--min-confidence"},
    "hashcli config libr": {"library-info", "library-clean"},
}
EVERYWHERE = ("hashcli adapt --method co", "hashcli train --backbone t", "hashcli adapt --method itq --set it")
CASES = [("bash", typed) for typed in OFFERS] + [(shell, typed) for shell in ("zsh", "fish") for typed in EVERYWHERE]


@pytest.mark.parametrize(("shell", "typed"), CASES)
def test_each_shell_is_offered_names_and_values(offered, shell, typed):
    found = offered(shell, typed)

    assert OFFERS[typed] <= set(found)
    assert all(word.startswith(typed.split()[-1]) for word in found)


def test_each_offer_is_one_line_whatever_its_help_says(offered):
    found = offered("fish", "hashcli adapt --method ")

    assert "couple" in found
    assert all(" " not in word for word in found)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_the_shell_can_be_had(monkeypatch, capfd, shell):
    monkeypatch.setenv("_HASHCLI_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        cli.app(args=[], prog_name="hashcli")

    assert "_HASHCLI_COMPLETE=complete_" in capfd.readouterr().out
