"""Captions in the forms in which they are published → for each image, the names it goes by, and its captions.

Karpathy's dataset_*.json; COCO's captions_*.json; a JSON object or list of images; JSON lines; lines of
name#number⇥caption, as Flickr's .token files; .csv with a header; and plain lists, one caption per line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._text import Lines, lines_of, parse_json
from ...errors import DataError
from ..scan import captions_of, read_text_file
from .item import is_name

# SCAN's names of Karpathy's splits: training took restval too (Faghri et al., VSE++, 2018).
SPLITS = {"val": "dev", "validation": "dev", "restval": "train"}
_IMAGE = ("filename", "file_name", "image", "image_name", "id", "image_id", "img_id")
_TEXT = ("captions", "caption", "sentences", "raw", "text")


@dataclass(frozen=True)
class Captioned:
    """One image of a captions file: its name, other names it goes by, its captions, its split if the file has any.

    index: Karpathy's imgid, which counts the file's images. It isn't a picture's name, though some extractors
    use it as one.
    """

    name: str
    others: tuple[str, ...]
    captions: list[str]
    split: str | None = None
    index: str | None = None


def read_captioned(path: Path) -> list[Captioned] | Lines:
    """The images of a captions file, in its order; a plain list is returned as its lines.

    White space inside a caption becomes one space. Raises DataError, naming the image or line, for a file of another
    form, an image without captions, and an empty caption.
    """
    content = read_text_file(path)
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start in (b"{", b"["):
        images = list(_merged(_of_json(content, path), path))
    else:
        named = _named_lines(content, path)
        if named is None:
            return captions_of(content, str(path))
        images = list(_merged(named, path))
    if not images:
        raise DataError(f"{path} holds no captions")
    return images


def _of_json(content: bytes, path: Path) -> Iterator[Captioned]:
    try:
        whole = parse_json(content)
    except ValueError as error:
        return _of_json_lines(content, path, error)
    if isinstance(whole, dict) and isinstance(whole.get("images"), list):
        of = _coco if isinstance(whole.get("annotations"), list) else _karpathy
        return of(whole, path)
    if isinstance(whole, dict) and len(content.splitlines()) == 1 and any(name in whole for name in _TEXT):
        return iter([_of_object(whole, str(path))])  # JSON lines of one line
    if isinstance(whole, dict) and all(isinstance(value, str | list) for value in whole.values()):
        return (Captioned(name, (), _texts(value, f"{path}, image {name!r}")) for name, value in whole.items())
    if isinstance(whole, list):
        return (_of_object(value, f"{path}, entry {number}") for number, value in enumerate(whole))
    raise DataError(
        f"{path} is JSON of another form; expected Karpathy's or COCO's images, or objects with image and captions"
    )


def _of_json_lines(content: bytes, path: Path, error: ValueError) -> Iterator[Captioned]:
    lines = lines_of(content, str(path))
    try:
        parse_json(lines[0].encode())
    except ValueError:
        raise DataError(f"{path} is not JSON: {error}") from error

    def parsed(index: int) -> Any:
        try:
            return parse_json(lines[index].encode())
        except ValueError as wrong:
            raise DataError(f"{lines.place(index)} is not JSON: {wrong}") from wrong

    return (_of_object(parsed(index), lines.place(index)) for index in range(len(lines)) if lines[index].strip())


def _of_object(value: Any, place: str) -> Captioned:
    if not isinstance(value, dict):
        raise DataError(f'{place} is not an object; expected {{"image": …, "captions": […]}}')
    names = [str(value[key]) for key in _IMAGE if isinstance(value.get(key), str | int)]
    texts = next((value[key] for key in _TEXT if key in value), None)
    if not names or texts is None:
        raise DataError(
            f"{place} has {', '.join(map(repr, list(value)[:8])) or 'nothing'}; expected an image ('id' or 'filename')"
            " and its 'captions' or 'caption'"
        )
    split = value.get("split")
    return Captioned(names[0], tuple(names[1:]), _texts(texts, place), _split(split))


def _karpathy(whole: dict[str, Any], path: Path) -> Iterator[Captioned]:
    for number, image in enumerate(whole["images"]):
        place = f"{path}, image {number}"
        if not isinstance(image, dict) or not isinstance(image.get("sentences"), list) or "filename" not in image:
            raise DataError(f"{place} has no 'filename' or no 'sentences', as Karpathy's files have")
        others = (str(image["cocoid"]),) if "cocoid" in image else ()
        index = str(image["imgid"]) if "imgid" in image else None
        split = _split(image.get("split"))
        yield Captioned(str(image["filename"]), others, _texts(image["sentences"], place), split, index)


def _coco(whole: dict[str, Any], path: Path) -> Iterator[Captioned]:
    texts: dict[Any, list[Any]] = {}
    try:
        for annotation in whole["annotations"]:
            texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
        for image in whole["images"]:
            if image["id"] in texts:
                place = f"{path}, image {image['id']}"
                yield Captioned(str(image["file_name"]), (str(image["id"]),), _texts(texts[image["id"]], place))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} lacks {error}, which COCO's captions have in every image or annotation") from error


def _named_lines(content: bytes, path: Path) -> Iterator[Captioned] | None:
    """Captions of lines that name their image; None for lines that don't."""
    lines = lines_of(content, str(path))
    if not lines:
        raise DataError(f"{path} is empty; expected one caption a line")
    header = re.split(r"[,|]", lines[0].lower().replace(" ", ""))
    if len(header) > 1 and header[0] in ("image", "image_name", "filename", "image_id", "id"):
        column = next((n for n, title in enumerate(header) if title in ("caption", "comment", "sentence", "raw")), None)
        if column is not None:
            return _of_table(lines, "|" if "|" in lines[0] else ",", column)
    if all("\t" in line for line in lines if line.strip()):
        return _split_lines(lines)
    return None


def _split_lines(lines: Lines) -> Iterator[Captioned]:
    for index, line in enumerate(lines):
        if line.strip():
            name, _, text = line.partition("\t")
            yield Captioned(re.sub(r"#[0-9]+$", "", name.strip()), (), _texts(text, lines.place(index)))


def _of_table(lines: Lines, delimiter: str, column: int) -> Iterator[Captioned]:
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
    next(reader)
    for row in reader:
        place = lines.place(min(reader.line_num, len(lines)) - 1)
        if row and len(row) <= column:
            raise DataError(f"{place} has {len(row)} columns; expected an image and its caption")
        if row:
            # A caption that holds the delimiter, unquoted
            last = delimiter.join(row[column:]) if column == len(row) - 1 or delimiter == "," else row[column]
            yield Captioned(row[0].strip(), (), _texts(last, place))


def _texts(value: Any, place: str) -> list[str]:
    """Captions as text: strings, or Karpathy's sentences, raw or else by tokens."""
    values = value if isinstance(value, list) else [value]
    result = []
    for number, each in enumerate(values):
        text = each
        if isinstance(each, dict):
            tokens = each.get("tokens")
            text = each.get("raw") or each.get("caption") or (" ".join(map(str, tokens)) if tokens else None)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{place}: caption {number} is empty or not text; remove it")
        result.append(" ".join(text.split()))
    return result


def _split(value: Any) -> str | None:
    return None if value is None else SPLITS.get(str(value), str(value))


def _merged(images: Iterable[Captioned], path: Path) -> Iterator[Captioned]:
    """Captions of one image together, where it was first named."""
    by_name: dict[str, Captioned] = {}
    for image in images:
        known = by_name.setdefault(image.name, image)
        if known is not image:
            known.captions.extend(image.captions)
    for image in by_name.values():
        if not is_name(image.name):
            raise DataError(f"{path} names an image {image.name[:80]!r}; a name is one line of text")
        if not image.captions:
            raise DataError(f"{path}: image {image.name!r} has no captions; remove it")
        yield image
