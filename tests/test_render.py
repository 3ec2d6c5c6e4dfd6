"""What people see: tables that no file name can break, progress that says where the work is."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from hashcli import cli_output, render
from hashcli.cli_results import show_results
from hashcli.progress import Progress
from hashcli.search import Match, QueryResult
from hashcli.talk import Talk, duration, shown


class Terminal(io.StringIO):
    """A stream that says it is a terminal and speaks UTF-8."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal 80 columns wide; `with terminal():` it is stdout and stderr."""
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)

    @contextmanager
    def attached() -> Iterator[Terminal]:
        screen = Terminal()
        with redirect_stdout(screen), redirect_stderr(screen):
            yield screen

    return attached


def plain(text: str) -> str:
    """Without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def result(*paths: bytes) -> QueryResult:
    found = [Match(b"q.jpg", i, 3 * i, 0.5, 0.5, path, "mug", "src") for i, path in enumerate(paths, 1)]
    return QueryResult(b"q.jpg", found)


def test_a_terminal_gets_a_table(terminal):
    with terminal() as screen:
        show_results([result(b"/p/a.jpg", b"/p/b.jpg")], None, header=False, null=False)

    head, rule, *rows = plain(screen.getvalue()).splitlines()
    assert head.split() == ["rank", "distance", "similarity", "path", "label", "domain"]
    assert set(rule) <= {"─", " "}
    assert [row.split() for row in rows] == [
        ["1", "3", "0.5000", "/p/a.jpg", "mug", "src"],
        ["2", "6", "0.5000", "/p/b.jpg", "mug", "src"],
    ]


def test_the_table_names_the_query_when_there_are_several(terminal):
    with terminal() as screen:
        show_results([result(b"/p/a.jpg"), result(b"/p/b.jpg")], None, header=False, null=False)

    assert plain(screen.getvalue()).split()[0] == "query"


def test_a_table_in_a_file_is_not_folded(capsys):
    path = b"/" + b"x" * 300 + b".jpg"

    show_results([result(path)], "table", header=False, null=False)

    assert path.decode() in capsys.readouterr().out


def test_a_path_is_neither_markup_nor_a_control_sequence(terminal):
    with terminal() as screen:
        show_results([result(b"/p/[red]x[/red].jpg", b"/p/\x1b[31m\n\xff.jpg")], None, header=False, null=False)

    assert "[red]x[/red]" in screen.getvalue()
    assert "\\x1b[31m\\n\\xff.jpg" in screen.getvalue()
    assert "\x1b[31m" not in screen.getvalue()


def test_bars_have_color_unless_no_color_is_set(terminal, monkeypatch):
    def drawn() -> str:
        with terminal() as screen, render.LiveTalk().task("indexing", 2) as task:
            task.advance(2)
        return screen.getvalue()

    color = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert not color.search(drawn())
    monkeypatch.delenv("NO_COLOR")
    assert color.search(drawn())


def test_bars_show_the_work_and_lines_stay_above_them(terminal, monkeypatch):
    monkeypatch.setattr(render, "REDRAW_EVERY", 0.0)
    with terminal() as screen:
        talk = render.LiveTalk(verbose=True)
        with talk.task("reading [photos]", 4) as task:
            task.advance(3)
            talk.say("one line " + "y" * 100)
            talk.log("epoch", loss=0.123456, photos=12345)

    said = plain(screen.getvalue())
    assert "reading [photos]" in said
    assert "3/4" in said
    assert "one line " + "y" * 100 in said
    assert "epoch: loss 0.1235, photos 12,345" in said


def test_tasks_nest(terminal):
    with terminal() as screen:
        talk = render.LiveTalk()
        with talk.task("outer", 2) as outer, talk.task("inner", 5) as inner:
            inner.advance(5)
            outer.advance()
        with talk.task("again"):
            pass

    assert {"outer", "inner", "again"} <= set(plain(screen.getvalue()).split())


def test_a_failure_leaves_the_cursor_visible(terminal):
    with terminal() as screen, pytest.raises(KeyError), render.LiveTalk().task("work", 2):
        raise KeyError

    assert screen.getvalue().rfind("\x1b[?25h") > screen.getvalue().rfind("\x1b[?25l")


def test_quiet_bars_draw_nothing(terminal):
    with terminal() as screen:
        talk = render.LiveTalk(quiet=True)
        with talk.task("work", 2) as task:
            task.advance(2)
            talk.say("hello")

    assert screen.getvalue() == ""


def test_bars_only_where_they_can_be_drawn(terminal, monkeypatch):
    with terminal():
        assert isinstance(cli_output.talk(False, False), render.LiveTalk)
        with redirect_stderr(io.StringIO()):
            assert type(cli_output.talk(False, False)) is Talk
        monkeypatch.setenv("TERM", "dumb")
        assert type(cli_output.talk(False, False)) is Talk


# ---- lines


class ClockedTalk(Talk):
    """A Talk whose time passes only when told."""

    now = 0.0

    def clock(self) -> float:
        return self.now


def test_lines_tell_start_end_and_at_most_one_a_minute(capsys):
    talk = ClockedTalk()
    with talk.task("indexing", 1000) as task:
        for _ in range(90):
            talk.now += 1
            task.advance(10)

    assert capsys.readouterr().err.splitlines() == [
        "indexing: 1,000 to do",
        "indexing: 600 of 1,000, 10/s, 40 s left",
        "indexing: 900 done in 1 min 30 s",
    ]


def test_a_task_of_unknown_length_counts(capsys):
    talk = ClockedTalk()
    with talk.task("walking") as task:
        talk.now += 61
        task.advance(122)

    assert capsys.readouterr().err.splitlines() == [
        "walking ...",
        "walking: 122, 2/s",
        "walking: 122 done in 1 min 1 s",
    ]


def test_a_task_that_fails_claims_no_end(capsys):
    with pytest.raises(KeyError), Talk().task("work", 2):
        raise KeyError

    assert capsys.readouterr().err == "work: 2 to do\n"


def test_quiet_says_nothing_and_log_needs_verbose(capsys):
    for talk in (Talk(quiet=True), Talk(quiet=True, verbose=False)):
        with talk.task("work", 2) as task:
            task.advance()
            talk.say("hello")
            talk.log("epoch", loss=1.0)
    assert capsys.readouterr().err == ""

    Talk(verbose=True).log("epoch", number=3, loss=0.5, device="cpu")
    assert capsys.readouterr().err == "epoch: number 3, loss 0.5, device cpu\n"


@pytest.mark.parametrize("kind", [Talk, render.LiveTalk])
def test_both_are_progress(kind):
    talk: Progress = kind(quiet=True)
    with talk.task("work") as task:
        task.advance()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min")],
)
def test_durations_are_told_in_two_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(1234567, "1,234,567"), (0.000012345, "1.234e-05"), ("cpu", "cpu")])
def test_counts_are_told_briefly(value, text):
    assert shown(value) == text
