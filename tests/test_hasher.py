from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hashcli import hasher_record, hasher_transfer, onnx_check
from hashcli.backbones import ExportedBackbone, Spec
from hashcli.errors import DamagedError, LibraryError, MachineError, NewerFormatError, UsageError
from hashcli.hasher import RECORD, Hasher
from tests import tiny

SIZE, DIM, N_BITS, WORDS = 4, 6, 16, 5


def write_graph(path: Path, ports: onnx_check.Ports, nodes: list, weights: dict[str, np.ndarray]) -> None:
    def values(side):
        return [
            helper.make_tensor_value_info(p.name, p.dtype, ["n" if d is None else d for d in p.shape]) for p in side
        ]

    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", values(ports[0]), values(ports[1]), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def write_backbone(path: Path, extra: list | None = None) -> None:
    """Mean color times a matrix."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide"], ["color"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["color", "mix"], ["mixed"]),
        *(extra or []),
        helper.make_node("Cast", ["mixed"], ["feature"], to=TensorProto.FLOAT16),
    ]
    mix = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
    write_graph(path, onnx_check.backbone_ports(SIZE, DIM), nodes, {"mix": mix})


def write_head(path: Path, dim: int = DIM) -> None:
    nodes = [
        helper.make_node("Cast", ["feature"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wide", "mix"], ["relaxed"]),
    ]
    mix = np.random.default_rng(1).normal(size=(dim, N_BITS)).astype(np.float32)
    write_graph(path, onnx_check.head_ports(dim, N_BITS), nodes, {"mix": mix})


def exported_in(folder: Path, extra: list | None = None) -> ExportedBackbone:
    folder.mkdir()
    write_backbone(folder / "backbone.onnx", extra)
    digest = hashlib.sha256((folder / "backbone.onnx").read_bytes()).hexdigest()
    spec = Spec("tiny", digest, "mix", DIM, SIZE, (0.0,) * 3, (1.0,) * 3, "squash")
    return ExportedBackbone(folder, spec)


def write(folder: Path, **changes) -> Hasher:
    """A small hasher in `folder`/hasher, from files in `folder`."""
    backbone = changes.pop("exported", None) or exported_in(folder / "exported")
    write_head(folder / "head.onnx")
    given = {
        "method": "couple", "settings": {"k": 3, "rate": 0.5, "soft": True}, "n_bits": N_BITS, "seed": 7, "threads": 2,
        "centering": "per_domain", "classes": ["shoe", "odd \udcff"], "seen": [b"b" * 16, b"a" * 16, b"b" * 16],
        "log": [("pairs", {"n": 12, "share": 0.25})], "package": "hashcli", "package_version": "0.1",
    }  # fmt: skip
    return Hasher.write(folder / "hasher", exported=backbone, head_path=folder / "head.onnx", **(given | changes))


@pytest.fixture
def hasher(tmp_path: Path) -> Hasher:
    return write(tmp_path)


def test_a_hasher_is_read_as_it_was_written(hasher):
    again = Hasher.open(hasher.folder)

    assert (again.method, again.n_bits, again.seed) == ("couple", N_BITS, 7)
    assert again.settings == {"k": 3, "rate": 0.5, "soft": True}
    assert again.classes == ["shoe", "odd \udcff"]
    assert again.seen == {b"a" * 16, b"b" * 16}
    assert again.record["log"] == [["pairs", {"n": 12, "share": 0.25}]]
    assert again.spec == hasher.spec and again.backbone.path.samefile(hasher.folder / "backbone.onnx")
    assert again.text_head_path is None and again.vocabulary is None
    assert again.digest == hasher.digest
    again.verify()


def test_hashers_share_one_backbone_file(tmp_path, hasher):
    assert (tmp_path / "exported" / "backbone.onnx").samefile(hasher.folder / "backbone.onnx")


def test_a_file_system_without_hard_links_gets_a_copy(tmp_path, monkeypatch):
    def refuses(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)

    write(tmp_path).verify()


def test_the_digest_tells_hashers_apart(tmp_path, hasher):
    (tmp_path / "other").mkdir()

    other = write(tmp_path / "other", seed=8)

    assert other.digest != hasher.digest


def test_a_text_head_comes_with_its_vocabulary(tmp_path):
    write_head(tmp_path / "text.onnx", WORDS)

    hasher = write(
        tmp_path, text_head_path=tmp_path / "text.onnx", text_dim=WORDS, vocabulary={"words": ["rot", "blå"]}
    )

    assert hasher.text_head_path == hasher.folder / "text.onnx"
    assert Hasher.open(hasher.folder).vocabulary == {"words": ["rot", "blå"]}
    hasher.verify()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # a hard link's other name stays whole
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["head.onnx", "seen.bin", "hasher.json"])
def test_a_flipped_bit_is_found_at_opening(hasher, name):
    flip(hasher.folder / name)

    with pytest.raises(DamagedError, match=name):
        Hasher.open(hasher.folder)


def test_a_flipped_bit_in_the_backbone_is_found_by_verify(hasher):
    flip(hasher.folder / "backbone.onnx")

    with pytest.raises(DamagedError, match="backbone"):
        Hasher.open(hasher.folder).verify()


@pytest.mark.parametrize("name", ["head.onnx", "seen.bin", "hasher.json", "backbone.onnx"])
def test_a_missing_or_cut_file_is_found_at_opening(hasher, name):
    path = hasher.folder / name
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(DamagedError, match=name):
        Hasher.open(hasher.folder)
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedError, match=name):
        Hasher.open(hasher.folder)


def forge(folder: Path, **changes: object) -> None:
    """Change the record and seal it again, as a stranger can."""
    record = json.loads((folder / "hasher.json").read_bytes()) | changes
    record["digest"] = hasher_record.seal(record)
    (folder / "hasher.json").write_text(json.dumps(record))


def test_a_newer_format_is_refused_by_name(hasher):
    forge(hasher.folder, version=2)

    with pytest.raises(NewerFormatError, match=r"hasher\.json has format version 2") as caught:
        Hasher.open(hasher.folder)
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"version": "1"},
        {"version": True},
        {"n_bits": "64"},
        {"n_bits": True},
        {"n_bits": 12},
        {"n_bits": 1 << 40},
        {"classes": None},
        {"settings": []},
        {"backbone": {}},
        {"files": {}},
        {"files": {"../../evil": {"bytes": 1}}},
        {"text_dim": 3},
        {"log": "x"},
    ],
)
def test_a_forged_record_is_damage_not_a_crash(hasher, changes):
    forge(hasher.folder, **changes)

    with pytest.raises(DamagedError):
        Hasher.open(hasher.folder)


def test_a_record_without_one_of_its_fields_is_damage(tmp_path):
    made = tiny.write_hasher(tmp_path / "made", tiny.backbone(tmp_path / "backbone"))
    for name in made.record.keys() - {"digest", "calibration", "training"}:
        record = {key: value for key, value in made.record.items() if key != name}
        (tmp_path / "made" / RECORD).write_text(json.dumps(record | {"digest": hasher_record.seal(record)}))
        with pytest.raises(DamagedError):
            Hasher.open(tmp_path / "made")


def test_a_backbone_in_anothers_name_is_refused(hasher, tmp_path):
    """Features of one backbone must never enter the cache of another."""
    spec = replace(hasher.spec, digest="0" * 64)
    forge(hasher.folder, backbone=spec.record())

    with pytest.raises(DamagedError, match="backbone"):
        Hasher.open(hasher.folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": "hashcli-hasher"}'])
def test_a_record_that_is_no_record_is_damage(hasher, content):
    (hasher.folder / "hasher.json").write_bytes(content)

    with pytest.raises(DamagedError, match=r"hasher\.json"):
        Hasher.open(hasher.folder)


def test_photos_read_by_another_rule_are_not_mixed_in(hasher):
    forge(hasher.folder, backbone=replace(hasher.spec, decode_rule="other").record())

    with pytest.raises(LibraryError, match="'other'") as caught:
        Hasher.open(hasher.folder)
    assert "train again" in caught.value.hint


def test_an_exported_hasher_is_the_same_elsewhere(hasher, tmp_path):
    hasher_transfer.export(hasher, tmp_path / "out.zip")

    again = hasher_transfer.import_from(tmp_path / "out.zip", tmp_path / "elsewhere")

    assert again.record == hasher.record and again.seen == hasher.seen
    assert sorted(p.name for p in again.folder.iterdir()) == sorted(p.name for p in hasher.folder.iterdir())
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_hasher_is_not_exported(hasher, tmp_path):
    flip(hasher.folder / "backbone.onnx")

    with pytest.raises(DamagedError, match="backbone"):
        hasher_transfer.export(hasher, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_an_export_that_cannot_be_written_says_where(hasher, tmp_path):
    with pytest.raises(MachineError, match=r"nowhere/out\.zip"):
        hasher_transfer.export(hasher, tmp_path / "nowhere" / "out.zip")


def repacked(hasher: Hasher, path: Path, **members: bytes) -> Path:
    """A zip of the hasher's files with `members` added or changed ("__" in a name stands for a dot)."""
    files = {p.name: p.read_bytes() for p in hasher.folder.iterdir()}
    files |= {name.replace("__", "."): data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "sub/head.onnx", "head.onnx\x00", "evil.py", "hasher.json/"])
def test_a_member_that_no_export_holds_is_refused(hasher, tmp_path, name):
    path = repacked(hasher, tmp_path / "bad.zip")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"evil")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(DamagedError):
        hasher_transfer.import_from(path, tmp_path / "elsewhere")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_member_given_twice_is_refused(hasher, tmp_path):
    path = repacked(hasher, tmp_path / "bad.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("head.onnx", b"other")

    with pytest.raises(DamagedError, match="twice"):
        hasher_transfer.import_from(path, tmp_path / "elsewhere")


def test_a_compressed_member_is_refused_so_that_none_can_unfold(hasher, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in hasher.folder.iterdir():
            archive.write(path, path.name)

    with pytest.raises(DamagedError, match="compressed"):
        hasher_transfer.import_from(tmp_path / "bad.zip", tmp_path / "elsewhere")


def test_a_member_over_its_limit_is_refused(hasher, tmp_path, monkeypatch):
    hasher_transfer.export(hasher, tmp_path / "out.zip")
    monkeypatch.setitem(hasher_transfer.LARGEST, "seen.bin", 3)

    with pytest.raises(DamagedError, match=r"seen\.bin in .* is larger"):
        hasher_transfer.import_from(tmp_path / "out.zip", tmp_path / "elsewhere")


@pytest.mark.parametrize("cut", [0, 10, -30])
def test_what_is_no_whole_zip_file_is_refused(hasher, tmp_path, cut):
    hasher_transfer.export(hasher, tmp_path / "out.zip")
    (tmp_path / "out.zip").write_bytes((tmp_path / "out.zip").read_bytes()[:cut])

    with pytest.raises(DamagedError, match="zip"):
        hasher_transfer.import_from(tmp_path / "out.zip", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_importing_nothing_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no file"):
        hasher_transfer.import_from(tmp_path / "absent.zip", tmp_path / "elsewhere")


def test_a_graph_that_fills_the_memory_is_refused_at_import(tmp_path):
    doublings = [helper.make_node("Concat", ["mixed"] * 2, ["d0"], axis=1)]
    doublings += [helper.make_node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=1) for i in range(36)]
    doublings += [
        helper.make_node("ReduceMean", ["d36"], ["one"], axes=[1], keepdims=1),
        helper.make_node("Add", ["mixed", "one"], ["unused"]),
    ]
    (tmp_path / "bomb").mkdir()
    bomb = exported_in(tmp_path / "exported", doublings)
    hasher_transfer.export(write(tmp_path / "bomb", exported=bomb), tmp_path / "bomb.zip")

    with pytest.raises(DamagedError, match="does not run within the memory"):
        hasher_transfer.import_from(tmp_path / "bomb.zip", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
