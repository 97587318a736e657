"""Decoding photos and label maps, strictly: what cannot be read exactly is refused with its file and a reason.

Pillow decodes here rather than OpenCV: at the same pixels it gives a palette PNG's indices, knows a file's size before
decoding it, and refuses truncated files, which OpenCV fills with gray.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.errors import DataError

MAX_PIXELS = 178_956_970
"""A larger picture is taken for a decompression bomb (it is Pillow's limit as well)."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_FULL_GRAY = {1: 255, 2: 85, 4: 17}  # what decoders multiply gray values of few bits by


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an 8-bit PNG or JPEG to (h, w, 3) uint8 RGB.

    Gray becomes RGB, alpha is dropped, a palette is looked up. An EXIF orientation is not applied, since label maps
    have none. Raises DataError on a missing, truncated, 16-bit or too large file and on any other format.
    """
    data = _read_bytes(path)
    if _png_depth(data) == 16:
        raise DataError("the photo has 16 bits per channel", where=path, fix="save it with 8 bits per channel")
    with _opened(data, path, ("PNG", "JPEG"), max_pixels) as picture:
        return np.array(picture.convert("RGB"))


def read_map(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a PNG to its stored values, and its palette (n, 3) uint8 if it has one.

    Values are (h, w) uint8 or uint16 for a gray or palette PNG of 1 to 16 bits, (h, w, 3) uint8 for RGB. Raises
    DataError as `read_image` does, on any JPEG (its values are not exact) and on transparent pixels.
    """
    data = _read_bytes(path)
    if data.startswith(_JPEG_SIGNATURE):
        raise DataError("a label map cannot be a JPEG, whose values are not exact", where=path, fix="use PNG")
    depth = _png_depth(data)
    with _opened(data, path, ("PNG",), max_pixels) as picture:
        mode = picture.mode
        values = np.array(picture)
        table = picture.getpalette("RGB") if mode == "P" else None
    if table is not None:
        return values, np.array(table, dtype=np.uint8).reshape(-1, 3)
    if mode in ("1", "L", "I;16", "I"):
        if depth == 16:
            return values.astype(np.uint16), None
        return values.astype(np.uint8) * (255 if mode == "1" else 1) // _FULL_GRAY.get(depth, 1), None
    if depth == 8 and mode in ("RGB", "RGBA"):
        if mode == "RGBA" and (clear := int((values[..., 3] < 255).sum())):
            raise DataError(f"{clear} pixels of the map are transparent", where=path, fix="save it without alpha")
        return np.ascontiguousarray(values[..., :3]), None
    raise DataError(
        f"a map cannot have the PNG mode {mode} with {depth} bits",
        where=path,
        fix="save it as 8- or 16-bit gray, palette or 8-bit RGB",
    )


def read_index_map(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a one-channel PNG (gray or palette, 1 to 16 bits) to its stored values, (h, w) uint8 or uint16."""
    values, _ = read_map(path, max_pixels)
    if values.ndim != 2:
        raise DataError("the map has 3 channels where one was expected", where=path, fix="save ids, not colors")
    return values


def size_text(array: np.ndarray) -> str:
    """Width x height, the order in which people say it."""
    return f"{array.shape[1]}x{array.shape[0]}"


def require_same_size(array: np.ndarray, path: Path | None, what: str, other: np.ndarray, whose: str) -> None:
    """Raise DataError naming both sizes unless the two arrays cover the same pixels."""
    if array.shape[:2] != other.shape[:2]:
        raise DataError(
            f"the {what} is {size_text(array)} but the {whose} is {size_text(other)}",
            where=path,
            fix="give both one size (label maps by nearest neighbor)",
        )


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError("the file is missing", where=path, fix="add it, or remove its partners") from None
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})", where=path) from error
    if not data.startswith((_PNG_SIGNATURE, _JPEG_SIGNATURE)):
        what = "the file is empty" if not data else "the file is neither PNG nor JPEG"
        raise DataError(what, where=path, fix="save it as PNG or JPEG")
    return data


def _png_depth(data: bytes) -> int:
    """Bits per channel from a PNG's header, 0 for a JPEG or a header that is cut off."""
    return data[24] if data.startswith(_PNG_SIGNATURE) and len(data) > 24 else 0


@contextmanager
def _opened(data: bytes, path: Path, formats: tuple[str, ...], max_pixels: int) -> Iterator[Image.Image]:
    """Open the picture, refuse a bomb by its header, decode it; every way to fail is a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=formats)
        width, height = picture.size
        if width * height > max_pixels:
            raise Image.DecompressionBombError(f"{width}x{height}")
        picture.load()
    except Image.DecompressionBombError as error:
        raise DataError(
            f"the picture claims more than {max_pixels} pixels ({error})",
            where=path,
            fix="make it smaller; it may be a decompression bomb",
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error) as error:
        raise DataError(f"the picture is damaged or cut off ({error})", where=path, fix="replace it") from error
    with picture:
        yield picture
