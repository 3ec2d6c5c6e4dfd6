"""What a photo file says about itself: description and keywords in its XMP and IPTC metadata."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hashcli.pixels import PARSER_ERRORS, Data, PhotoError, open_image

if TYPE_CHECKING:
    from PIL import Image

MAX_XMP = 1 << 20
_DC = "{http://purl.org/dc/elements/1.1/}"
_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_CAPTION, _KEYWORDS = (2, 120), (2, 25)  # IPTC-IIM: record 2, data sets 120 and 25


def embedded_caption(data: Data) -> str:
    """Description and keywords from XMP (dc:description, dc:subject) and IPTC, each said once; "" where there are none.

    No pixel is decoded. Metadata that cannot be read count as none: they are beside the photo's point.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_image(data)
            packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
            said = [*_from_xmp(packet), *_from_iptc(image)]
        except (PhotoError, *PARSER_ERRORS):
            return ""
    return "; ".join(dict.fromkeys(" ".join(piece.split()) for piece in said if piece.strip()))


def _from_xmp(packet: bytes | str) -> Iterator[str]:
    """An XMP packet is XML without a document type: one that has it could declare entities that grow without end."""
    text = packet if isinstance(packet, str) else packet.decode("utf-8", "replace")
    if not text.strip() or len(text) > MAX_XMP or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return
    try:
        root = ET.fromstring(text.strip("\0 \r\n\t\ufeff"))
    except ET.ParseError:
        return
    for description in root.iter(f"{_DC}description"):
        texts = [item.text or "" for item in description.iter(_ITEM)]
        yield texts[0] if texts else description.text or ""  # the first is the default of several languages
    for subject in root.iter(f"{_DC}subject"):
        yield from (item.text or "" for item in subject.iter(_ITEM))


def _from_iptc(image: Image.Image) -> Iterator[str]:
    from PIL import ImageFile, IptcImagePlugin

    if not isinstance(image, ImageFile.ImageFile):
        return
    found = IptcImagePlugin.getiptcinfo(image) or {}
    for key in (_CAPTION, _KEYWORDS):
        value = found.get(key, [])
        for piece in value if isinstance(value, list) else [value]:
            try:
                yield piece.decode("utf-8")
            except UnicodeDecodeError:
                yield piece.decode("latin-1")
