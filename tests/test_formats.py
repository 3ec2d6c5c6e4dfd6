"""The output forms for scripts, pinned byte by byte on results made by hand."""

from __future__ import annotations

import base64
import csv
import io
import json

import pytest

from hashcli import formats
from hashcli.cli_results import show_results
from hashcli.photos import unescape
from hashcli.search import Match, QueryResult

ODD = b"/p/tab\tnew\nline\\back\xff.jpg"


def match(query: bytes, rank: int, distance: int, similarity: float, path: bytes, label: str | None) -> Match:
    return Match(query, rank, distance, similarity, similarity, path, label, "src" if label else "tgt")


PLAIN = [
    QueryResult(
        b"q.jpg",
        [
            match(b"q.jpg", 1, 0, 1.0, b"/p/mug 1.jpg", "mug"),
            match(b"q.jpg", 2, 3, 0.98765, "/p/café.jpg".encode(), None),
        ],
    )
]
STRANGE = [
    QueryResult(b"q\xfe.jpg", [match(b"q\xfe.jpg", 1, 12, -0.25, ODD, 'a,b\t"c"')]),
    QueryResult(b"gone.jpg", [], "no such file"),
    QueryResult(b"-", [match(b"-", 1, 64, 0.0, b"/p/\x1b[31mred;=1.jpg", None)]),
]

GOLDEN = {
    ("plain", "tsv"): (
        b"q.jpg\t1\t0\t1.0000\t/p/mug 1.jpg\tmug\tsrc\n"  #
        b"q.jpg\t2\t3\t0.9877\t/p/caf\xc3\xa9.jpg\t\ttgt\n"
    ),
    ("plain", "csv"): (
        b"q.jpg,1,0,1.0000,/p/mug 1.jpg,mug,src\n"  #
        b"q.jpg,2,3,0.9877,/p/caf\xc3\xa9.jpg,,tgt\n"
    ),
    ("plain", "jsonl"): (
        b'{"version": 1, '
        b'"query": "q.jpg", "rank": 1, "distance": 0, "similarity": 1.0, "path": "/p/mug 1.jpg", '
        b'"label": "mug", "domain": "src"}\n'
        b'{"version": 1, '
        b'"query": "q.jpg", "rank": 2, "distance": 3, "similarity": 0.9877, "path": "/p/caf\\u00e9.jpg", '
        b'"label": null, "domain": "tgt"}\n'
    ),
    ("plain", "paths"): b"/p/mug 1.jpg\n/p/caf\xc3\xa9.jpg\n",
    ("plain", "null"): b"/p/mug 1.jpg\0/p/caf\xc3\xa9.jpg\0",
    ("strange", "tsv"): (
        b'q\\xfe.jpg\t1\t12\t-0.2500\t/p/tab\\tnew\\nline\\\\back\\xff.jpg\ta,b\\t"c"\tsrc\n'
        b"-\t1\t64\t0.0000\t/p/\\x1b[31mred;=1.jpg\t\ttgt\n"
    ),
    ("strange", "csv"): (
        b'q\\xfe.jpg,1,12,-0.2500,/p/tab\\tnew\\nline\\\\back\\xff.jpg,"a,b\\t""c""",src\n'
        b"-,1,64,0.0000,/p/\\x1b[31mred;=1.jpg,,tgt\n"
    ),
    ("strange", "jsonl"): (
        b'{"version": 1, '
        b'"query": "q\\\\xfe.jpg", "query_bytes": "cf4uanBn", "rank": 1, "distance": 12, "similarity": -0.25, '
        b'"path": "/p/tab\\\\tnew\\\\nline\\\\\\\\back\\\\xff.jpg", '
        b'"path_bytes": "L3AvdGFiCW5ldwpsaW5lXGJhY2v/LmpwZw==", '
        b'"label": "a,b\\t\\"c\\"", "domain": "src"}\n'
        b'{"version": 1, '
        b'"query": "-", "rank": 1, "distance": 64, "similarity": 0.0, "path": "/p/\\u001b[31mred;=1.jpg", '
        b'"label": null, "domain": "tgt"}\n'
    ),
    ("strange", "paths"): ODD + b"\n/p/\x1b[31mred;=1.jpg\n",
    ("strange", "null"): ODD + b"\0/p/\x1b[31mred;=1.jpg\0",
}


@pytest.mark.parametrize(("names", "form"), GOLDEN)
def test_query_output_is_byte_for_byte(capfdbinary, names, form):
    results = PLAIN if names == "plain" else STRANGE

    show_results(results, "paths" if form == "null" else form, header=False, null=form == "null")

    assert capfdbinary.readouterr().out == GOLDEN[names, form]


@pytest.mark.parametrize(("form", "between"), [("tsv", b"\t"), ("csv", b",")])
def test_header_names_the_columns(capfdbinary, form, between):
    show_results(PLAIN, form, header=True, null=False)

    first, rest = capfdbinary.readouterr().out.split(b"\n", 1)
    assert first == between.join([b"query", b"rank", b"distance", b"similarity", b"path", b"label", b"domain"])
    assert rest == GOLDEN["plain", form]


@pytest.mark.parametrize("form", ["jsonl", "paths"])
def test_forms_without_columns_have_no_header(capfdbinary, form):
    show_results(PLAIN, form, header=True, null=False)

    assert capfdbinary.readouterr().out == GOLDEN["plain", form]


def test_a_pipe_gets_tsv_unless_asked(capfdbinary):
    show_results(PLAIN, None, header=False, null=False)

    assert capfdbinary.readouterr().out == GOLDEN["plain", "tsv"]


def written(form: str, path: bytes) -> bytes:
    out = io.BytesIO()
    formats.write(out, form, ("rank", "path"), [(1, path)])
    return out.getvalue()


EVERY_BYTE = bytes(range(1, 256))


@pytest.mark.parametrize("path", [EVERY_BYTE, "naïve ‮ \u2028 \u0085 日本".encode(), b"", b"\\x41", b"a\rb"])
def test_the_true_path_comes_back_from_every_form(path):
    tsv, table, record = written("tsv", path), written("csv", path).decode(), json.loads(written("jsonl", path))

    assert tsv.count(b"\n") == 1
    assert tsv.count(b"\t") == 1
    assert unescape(tsv[2:-1].decode()) == path
    assert unescape(next(csv.reader(io.StringIO(table, newline="")))[1]) == path
    assert (base64.b64decode(record["path_bytes"]) if "path_bytes" in record else record["path"].encode()) == path
    assert written("paths", path) == path + b"\n"


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_no_path_can_send_a_control_character_to_a_terminal(form):
    for name in (EVERY_BYTE, "\u0085\u009b31m\u202e\u2066".encode()):
        shown = written(form, name).decode()
        assert shown.rstrip("\n").replace("\t", "").isprintable()


def test_missing_values_are_empty_cells_and_json_nulls():
    columns, row = ("a", "b", "c"), (None, float("nan"), 0)
    out = io.BytesIO()
    for form in ("tsv", "csv", "jsonl"):
        formats.write(out, form, columns, [row])

    assert out.getvalue() == b'\t\t0\n,,0\n{"version": 1, "a": null, "b": null, "c": 0}\n'


def test_rows_are_written_as_they_come():
    out = io.BytesIO()

    def rows():
        yield (1, b"one")
        assert out.getvalue() == b"one\n"
        yield (2, b"two")

    formats.write(out, "paths", ("rank", "path"), rows())

    assert out.getvalue() == b"one\ntwo\n"


def test_a_failed_photo_is_one_json_record():
    assert formats.photo_failure(b"/p/a.jpg", "cut short") == {"version": 1, "path": "/p/a.jpg", "reason": "cut short"}
    odd = formats.photo_failure(b"/p/\xff\n.jpg", "cut short")
    assert odd == {"version": 1, "path": "/p/\\xff\\n.jpg", "path_bytes": "L3Av/wouanBn", "reason": "cut short"}


def test_unknown_forms_are_refused():
    with pytest.raises(ValueError, match="'xml'"):
        formats.write(io.BytesIO(), "xml", ("path",), [])
