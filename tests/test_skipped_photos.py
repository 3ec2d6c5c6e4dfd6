"""What becomes of photos that cannot be used: a line, a report, an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from hashcli import cli_output as output
from hashcli.collection import collect
from hashcli.extraction import PhotoFailure
from hashcli.talk import Talk
from hashcli.walking import NothingReadError, WalkOptions


def test_what_an_extra_would_read_is_skipped_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [PhotoFailure(b"/a/%d.heic" % n, "needs hashcli[heic]", "heic") for n in range(1200)]
    report = tmp_path / "report.jsonl"
    output.finish(skipped, report, Talk(False))
    assert capsys.readouterr().err == "1,200 HEIC photos skipped; to read them: pip install 'hashcli[heic]'\n"
    assert len(report.read_text().splitlines()) == 1200
    with pytest.raises(typer.Exit) as ended:
        output.finish([*skipped, PhotoFailure(b"/a/b.jpg", "is empty")], None, Talk(False))
    assert ended.value.exit_code == 3
    assert "1 failed, the first: /a/b.jpg: is empty" in capsys.readouterr().err


def test_the_report_is_written_when_nothing_could_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashcli.walking._is_there", lambda extra: False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.nef").touch()
    report = tmp_path / "report.jsonl"
    with pytest.raises(NothingReadError, match="no photos") as told, output.reporting(report):
        collect(tmp_path / "photos", "--src", WalkOptions())
    assert told.value.hint == "pip install 'hashcli[raw]'"
    assert [json.loads(line)["reason"] for line in report.read_text().splitlines()] == ["needs hashcli[raw]"]
