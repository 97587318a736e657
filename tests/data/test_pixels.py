from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.pixels import read_image, read_index_map, read_map
from pipelines.errors import DataError

from .trees import photo, png, write_picture

JPEG = cv2.imencode(".jpg", photo(1)[..., ::-1])[1].tobytes()
PNG = cv2.imencode(".png", photo(1)[..., ::-1])[1].tobytes()


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_photo_reads_as_opencv_decodes_it(tmp_path: Path) -> None:
    for name, data in (("a.jpg", JPEG), ("a.png", PNG)):
        image = read_image(save(tmp_path / name, data))
        assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
        assert np.array_equal(image, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def test_gray_alpha_and_palette_photos_become_rgb(tmp_path: Path) -> None:
    gray = photo(2)[..., 0]
    alpha = np.dstack([photo(2), np.tile(np.arange(32, dtype=np.uint8), (24, 1))])
    palette = Image.fromarray(photo(2)).quantize(16)
    for name, picture, expected in (
        ("gray.png", Image.fromarray(gray), np.dstack([gray] * 3)),
        ("gray.jpg", None, None),
        ("alpha.png", Image.fromarray(alpha), alpha[..., :3]),
        ("palette.png", palette, np.array(palette.convert("RGB"))),
    ):
        if picture is None:
            Image.fromarray(gray).save(tmp_path / name)
            image = read_image(tmp_path / name)
            assert image.shape == (24, 32, 3) and (image[..., 0] == image[..., 2]).all()
            continue
        picture.save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), expected)


def test_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(photo(3)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (24, 32, 3)


@pytest.mark.parametrize("cut", [0, 2, 3, 20, 200, len(JPEG) // 2, len(JPEG) - 30])
def test_a_truncated_jpeg_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(DataError) as error:
        read_image(save(tmp_path / "a.jpg", JPEG[:cut]))
    assert error.value.where == str(tmp_path / "a.jpg")


@pytest.mark.parametrize("cut", [0, 7, 8, 20, 24, 25, 30, len(PNG) // 2, len(PNG) - 40])
def test_a_truncated_png_is_refused(tmp_path: Path, cut: int) -> None:
    for read in (read_image, read_map):
        with pytest.raises(DataError):
            read(save(tmp_path / "a.png", PNG[:cut]))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([JPEG, PNG]), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6))
def test_damaged_bytes_give_pixels_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, edits: list[tuple[int, int]]
) -> None:
    damaged = bytearray(data)
    for place, value in edits:
        damaged[place % len(damaged)] = value
    path = save(tmp_path_factory.getbasetemp() / "damaged", bytes(damaged))
    for read in (read_image, read_map):
        try:
            read(path, 100_000)
        except DataError as error:
            assert error.where == str(path)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    for side in (14_000, 60_000):  # beyond a smaller limit, beyond Pillow's own
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        data = PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]
        for read in (read_image, read_index_map):
            with pytest.raises(DataError, match="claims more than"):
                read(save(tmp_path / "bomb.png", data), 100_000_000)
    with pytest.raises(DataError, match="claims more than 767 pixels"):
        read_image(save(tmp_path / "a.jpg", JPEG), max_pixels=24 * 32 - 1)
    assert read_image(tmp_path / "a.jpg", max_pixels=24 * 32).shape == (24, 32, 3)


def test_sixteen_bits_are_refused_for_photos_and_read_for_maps(tmp_path: Path) -> None:
    values = np.array([[0, 1, 65535], [300, 256, 24001]])
    path = save(tmp_path / "a.png", png(values, 16, 0))
    assert read_index_map(path).dtype == np.uint16
    assert np.array_equal(read_index_map(path), values)
    with pytest.raises(DataError, match="16 bits"):
        read_image(path)
    color = save(tmp_path / "b.png", png(np.zeros((2, 2, 3), int), 16, 2))
    with pytest.raises(DataError, match="16 bits"):
        read_image(color)
    with pytest.raises(DataError, match="16 bits"):
        read_map(color)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("color_type", [0, 3])
def test_maps_of_few_bits_keep_their_values(tmp_path: Path, depth: int, color_type: int) -> None:
    values = np.random.default_rng(depth).integers(0, 2**depth, (5, 7))
    values[0, 0] = 2**depth - 1
    table = np.random.default_rng(9).integers(0, 256, (2**depth, 3)) if color_type == 3 else None
    path = save(tmp_path / "a.png", png(values, depth, color_type, table))
    read, palette = read_map(path)
    assert read.dtype == np.uint8 and np.array_equal(read, values)
    assert (palette is None) == (table is None)
    if table is not None:
        assert np.array_equal(palette[values], table[values])


def test_maps_that_are_not_exact_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="JPEG"):
        read_index_map(save(tmp_path / "a.jpg", JPEG))
    with pytest.raises(DataError, match="3 channels"):
        read_index_map(write_picture(tmp_path / "a.png", photo(1)))
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "clear.png")
    with pytest.raises(DataError, match="16 pixels of the map are transparent"):
        read_map(tmp_path / "clear.png")
    with pytest.raises(DataError, match="neither PNG nor JPEG"):
        read_map(save(tmp_path / "a.gif", b"GIF89a" + bytes(50)))
    with pytest.raises(DataError, match="missing"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)
