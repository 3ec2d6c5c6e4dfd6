"""Which root, and so which domain, a path belongs to."""

from __future__ import annotations

import pytest

from hashcli.records import Root, decode_root, encode_root, root_key
from hashcli.roots import deepest, domain_of

ROOTS = [Root(0, b"/p", "src"), Root(1, b"/p/in/ner", "tgt"), Root(2, b"/p/in", "src", by_folder=False)]


@pytest.mark.parametrize(
    "full, number, domain",
    [
        (b"/p/a.jpg", 0, "src"),
        (b"/p/in/a.jpg", 2, "src"),
        (b"/p/in/ner/deep/a.jpg", 1, "tgt"),
        (b"/p/in/nerves/a.jpg", 2, "src"),
        (b"/photos/a.jpg", None, "tgt"),
        (b"/p", None, "tgt"),
    ],
)
def test_a_path_belongs_to_the_deepest_root_around_it_in_whatever_order_they_come(full, number, domain):
    for roots in (ROOTS, ROOTS[::-1]):
        found = deepest(roots, full)
        assert (found.id if found else None) == number
        assert domain_of(roots, full) == domain


def test_a_root_is_stored_with_where_its_labels_come_from():
    for root in ROOTS:
        assert decode_root(root_key(root.id), encode_root(root)) == root
