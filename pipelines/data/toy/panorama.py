"""Street panoramas: all around in equirectangular columns and rows, made from four views with square pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipelines.data.toy.camera import Camera, street_camera
from pipelines.data.toy.light import Light
from pipelines.data.toy.render import render, shine
from pipelines.data.toy.world import World

ELEVATION = math.radians(33)  # seen above and below the horizon, which lies in the middle row
REACH = 45.0  # meters around the camera within which things throw shadows
_LAMPS = 8
_FINER = 2  # rows and columns that are averaged into one
_DETAIL = 1.5  # rows of a face at its middle for each row of the panorama
_MARGIN = 2  # pixels of a face beyond what it must show, so that no sample reaches over its edge


def panorama_angles(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Elevation (h,) and angle to the right of the middle (w,) of the pixels' centers of a (h, w) panorama, radians.

    The left edge looks back, a quarter of the width looks left, the middle ahead: over an aerial image with the same
    heading at its top that is down, left, up.
    """
    height, width = size
    elevation = ELEVATION * (1 - 2 * (np.arange(height) + 0.5) / height)
    return elevation, 2 * math.pi * ((np.arange(width) + 0.5) / width - 0.5)


def draw_panorama(
    world: World, position: tuple[float, float, float], heading: float, light: Light, size: tuple[int, int]
) -> np.ndarray:
    """The panorama (h, w, 3) uint8 RGB seen from position (meters), heading (radians, north to east) in its middle.

    Four faces of 90 degrees look ahead, right, back and left. They meet in rays that both of them hold, and share one
    light, so nothing changes from one to the next.
    """
    eye = np.array(position)
    lit = shine(world, light, eye, REACH, eye, _LAMPS)
    fine = (_FINER * size[0], _FINER * size[1])
    cameras = [street_camera(position, heading + k * math.pi / 2, *_face(size[0])) for k in range(4)]
    faces = np.concatenate([render(world, camera, light, lit)[0] for camera in cameras], axis=1)
    columns, rows = _points(fine, cameras[0])
    sampled = cv2.remap(faces, columns, rows, cv2.INTER_LINEAR)
    return cv2.resize(sampled, size[::-1], interpolation=cv2.INTER_AREA)


def _face(height: int) -> tuple[float, float, tuple[int, int]]:
    """Field of view, horizon and (height, width) of a face's camera, for a panorama of a height."""
    focal = _DETAIL * height / (2 * ELEVATION)
    # the highest ray is steepest in a face at its sides, 45 degrees from its middle
    tall = 2 * (math.ceil(focal * math.tan(ELEVATION) / math.cos(math.pi / 4)) + _MARGIN)
    wide = 2 * (math.ceil(focal) + _MARGIN)
    return 2 * math.atan(0.5 * math.sqrt(tall * wide) / focal), 0.5, (tall, wide)


def _points(size: tuple[int, int], face: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows (h, w) float32 of a panorama's pixels in its faces side by side, as cv2.remap counts them."""
    elevation, angle = panorama_angles(size)
    number = np.round(angle / (math.pi / 2))
    off = angle - number * (math.pi / 2)
    x = number % 4 * face.width + face.width / 2 + face.focal * np.tan(off) - 0.5
    y = face.height / 2 - face.focal * np.tan(elevation)[:, None] / np.cos(off) - 0.5
    return np.broadcast_to(x, y.shape).astype(np.float32), y.astype(np.float32)
