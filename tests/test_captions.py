"""Captions of photos: from tables, text files and metadata, some of it broken or hostile."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from hashcli import captions
from hashcli.collection import Collection, collect
from hashcli.embedded import MAX_XMP, embedded_caption
from hashcli.errors import UsageError
from hashcli.progress import Silent
from hashcli.walking import WalkOptions

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    "<rdf:Description>{}</rdf:Description></rdf:RDF></x:xmpmeta>  \n<?xpacket end='w'?>"
)
DESCRIPTION = (
    "<dc:description><rdf:Alt><rdf:li xml:lang='x-default'>A red\n mushroom</rdf:li>"
    "<rdf:li xml:lang='de'>Ein Pilz</rdf:li></rdf:Alt></dc:description>"
)
SUBJECT = "<dc:subject><rdf:Bag><rdf:li>wood</rdf:li><rdf:li>süß</rdf:li><rdf:li/></rdf:Bag></dc:subject>"


def photo(path: Path, xmp: str | None = None, iptc: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, object] = {} if xmp is None else {"xmp": xmp.encode()}
    image = Image.new("RGB", (4, 4), "red")
    if iptc is not None and path.suffix == ".tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags.tagtype[33723] = 7
        tags[33723] = iptc
        options["tiffinfo"] = tags
    image.save(path, **options)
    if iptc is not None and path.suffix == ".jpg":
        block = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
        segment = b"Photoshop 3.0\0" + block
        data = path.read_bytes()
        path.write_bytes(data[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    return path


def iptc(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text)) + text for number, text in fields)


def read(folder: Path, table: Path | None = None) -> dict[str, str]:
    collection = captions.with_captions(collect(folder, "DIR", WalkOptions()), table, Silent())
    assert len(collection.captions) == len(collection.files)
    return {f.path.decode(): caption for f, caption in zip(collection.files, collection.captions, strict=True)}


def test_text_files_beside_photos_are_their_captions(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"):
        photo(tmp_path / name)
    (tmp_path / "a.jpg.txt").write_text("\ufeffa red\n\n mushroom \n", "utf-8")
    (tmp_path / "b.txt").write_text("blue")
    (tmp_path / "c.txt").write_text("the second choice")
    (tmp_path / "c.jpg.txt").write_text("the first choice")
    (tmp_path / "d.txt").write_bytes(b"caf\xe9 \0")
    assert read(tmp_path) == {
        "a.jpg": "a red mushroom", "b.jpg": "blue", "c.jpg": "the first choice", "d.jpg": "caf\ufffd \0", "e.jpg": "",
    }  # fmt: skip


def test_what_is_no_plain_small_text_file_is_no_caption(tmp_path: Path) -> None:
    for name in ("folder.jpg", "fifo.jpg", "long.jpg", "empty.jpg"):
        photo(tmp_path / name)
    (tmp_path / "folder.jpg.txt").mkdir()
    os.mkfifo(tmp_path / "fifo.jpg.txt")
    (tmp_path / "long.jpg.txt").write_text("x " * captions.MAX_SIDECAR)
    (tmp_path / "empty.jpg.txt").write_text(" \n")
    (tmp_path / "empty.txt").write_text("from the other file")
    assert read(tmp_path) == {"empty.jpg": "from the other file", "fifo.jpg": "", "folder.jpg": "", "long.jpg": ""}


def test_a_table_is_the_only_source_where_it_is_given(tmp_path: Path) -> None:
    photo(tmp_path / "photos/a.jpg")
    photo(tmp_path / "photos/b.jpg")
    (tmp_path / "photos/b.txt").write_text("beside")
    table = tmp_path / "captions.csv"
    table.write_text('path,caption\nphotos/a.jpg,"red, and round"\n\nphotos/gone.jpg,x\n')
    assert read(tmp_path / "photos", table) == {"a.jpg": "red, and round", "b.jpg": ""}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("path,labels\na.jpg,x\n", "first line of .* must be `path,caption`"),
        ("path,caption\na.jpg,x,y\n", "line 2 of .* has 3 columns, not 2"),
        ("path,caption\nb.jpg,x\n", "no path in .* is a photo of"),
        (None, "there is no file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, match: str) -> None:
    photo(tmp_path / "a.jpg")
    table = tmp_path / "captions.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(UsageError, match=f"--captions-file: .*{match}|--captions-file: {match}"):
        read(tmp_path, table)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_description_and_keywords_inside_a_photo_are_its_caption(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.format(DESCRIPTION + SUBJECT))
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    elif suffix == ".tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags.tagtype[700] = 1
        tags[700] = XMP.format(DESCRIPTION + SUBJECT).encode()
        Image.new("RGB", (4, 4)).save(path, tiffinfo=tags)
    else:
        photo(path, XMP.format(DESCRIPTION + SUBJECT))
    assert embedded_caption(path.read_bytes()) == "A red mushroom; wood; süß"


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_iptc_captions_and_keywords_are_read_and_nothing_is_said_twice(tmp_path: Path, suffix: str) -> None:
    fields = iptc((120, b"A red mushroom"), (25, "süß".encode()), (25, b"wood"), (25, b"caf\xe9"), (5, b"title"))
    path = photo(tmp_path / f"a{suffix}", XMP.format(SUBJECT) if suffix == ".jpg" else None, fields)
    said = "wood; süß; A red mushroom; café" if suffix == ".jpg" else "A red mushroom; süß; wood; café"
    assert embedded_caption(path.read_bytes()) == said


def test_a_text_file_comes_before_what_is_inside(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", XMP.format(SUBJECT))
    assert read(tmp_path) == {"a.jpg": "wood; süß"}
    (tmp_path / "a.txt").write_text("beside")
    assert read(tmp_path) == {"a.jpg": "beside"}


LAUGHS = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(12))
BOMB = f'<!DOCTYPE d [<!ENTITY l0 "ha">{LAUGHS}]>' + XMP.format("<dc:description>&l12;</dc:description>")


@pytest.mark.parametrize(
    "packet",
    [
        BOMB,
        '<!DOCTYPE d [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + XMP.format("<dc:description>&f;</dc:description>"),
        XMP.format("<dc:description>&undeclared;</dc:description>"),
        XMP.format(DESCRIPTION)[:-60],
        XMP.format("<a>" * 9000 + "</a>" * 8999),
        XMP.format("<a>" * 4000 + "</a>" * 4000),
        "not XML",
        "\0" * 50,
    ],
    ids=["bomb", "file", "undeclared", "cut", "unclosed", "deep", "text", "zeros"],
)
def test_hostile_or_broken_metadata_count_as_none(tmp_path: Path, packet: str) -> None:
    path = photo(tmp_path / "a.jpg", packet)
    assert embedded_caption(path.read_bytes()) == ""


def test_metadata_beyond_the_limit_and_other_encodings_count_as_none(tmp_path: Path) -> None:
    wide = photo(tmp_path / "a.webp", XMP.format(DESCRIPTION + " " * MAX_XMP))
    assert embedded_caption(wide.read_bytes()) == ""
    Image.new("RGB", (4, 4)).save(tmp_path / "b.webp", xmp=BOMB.encode("utf-16"))
    assert embedded_caption((tmp_path / "b.webp").read_bytes()) == ""


def test_broken_photos_have_no_caption(tmp_path: Path) -> None:
    whole = photo(tmp_path / "a.jpg", XMP.format(SUBJECT), iptc((25, b"wood"))).read_bytes()
    for end in range(0, len(whole), 7):
        embedded_caption(whole[:end])
    assert embedded_caption(b"") == embedded_caption(b"no photo") == ""
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.jpg").write_bytes(b"")
    assert read(tmp_path) == {"a.jpg": "wood; süß", "b.jpg": ""}


def test_captions_are_common_from_half_of_the_photos_on(tmp_path: Path) -> None:
    for n in range(8):
        photo(tmp_path / f"{n}.jpg")
    collection: Collection = collect(tmp_path, "DIR", WalkOptions())
    for n in range(4):
        assert not captions.are_common(collection)
        (tmp_path / f"{n}.txt").write_text("a photo")
    assert captions.are_common(collection)


def test_a_sample_of_a_large_collection_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.jpg")
    collection = collect(tmp_path, "DIR", WalkOptions())
    asked = []
    monkeypatch.setattr(captions, "caption_of", lambda file: asked.append(file) or "said")
    assert captions.are_common(Collection(collection.root, collection.files * 1000, []))
    assert 32 <= len(asked) <= captions.SAMPLE
