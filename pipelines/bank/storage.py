"""Files of named arrays in HDF5, each array whole, contiguous and with its checksum.

The one user of h5py. A file is written under a temporary name, synced and renamed, so that a kill leaves either
the whole file or none: HDF5 files that are appended in place can be damaged silently. The bytes of a file depend
on its arrays alone (no timestamps), so equal content gives equal hashes. libver «v110» keeps the files readable
by every HDF5 since 1.10.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from pipelines.artifact import write_atomic
from pipelines.errors import ArtifactError, EnvironmentFault

CHECKSUM = "crc32"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file whole or not at all. Raises OSError when the disk does not take it."""
    write_atomic(path, encode_arrays(arrays))


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a file; made in memory, since HDF5 can crash when a disk fills up under it."""
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v110")) as file:
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array)
            dataset.attrs[CHECKSUM] = np.uint32(checksum(array))
    return image.getvalue()


def read_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The named arrays of a file, or all. Raises ArtifactError when it is missing, truncated, damaged or lacks one."""
    with ArrayFile(path) as file:
        return {name: file.read(name) for name in (file.names() if names is None else names)}


class ArrayFile:
    """A file of arrays, open for reading. Not picklable, not for use after a fork: open one per process.

    Its files are never changed once written, so no lock is taken (locks fail on some network file systems).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            self._file = h5py.File(path, "r", locking=False)
            self._bytes = path.stat().st_size
        self._open: dict[str, tuple[h5py.Dataset, int]] = {}

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.clear()
        self._file.close()

    def names(self) -> list[str]:
        with _readable(self.path):
            return list(self._file)

    def read(self, name: str) -> np.ndarray:
        """A whole array, checked against its checksum."""
        with _readable(self.path):
            dataset = self._dataset(name)
            array = np.asarray(dataset[()])
            recorded = int(dataset.attrs[CHECKSUM])
        if checksum(array) != recorded:
            raise damaged(self.path, f"the checksum of «{name}» is wrong")
        return array

    def slice(self, name: str, start: int, stop: int) -> np.ndarray:
        """array[start:stop], unchecked: for arrays whose items carry their own checksums."""
        with _readable(self.path):
            if name not in self._open:  # looking an array up costs more than reading a piece
                dataset = self._dataset(name)
                self._open[name] = dataset, len(dataset)
            dataset, length = self._open[name]
            if not 0 <= start <= stop <= length:
                raise ValueError(f"«{name}» has {length} entries, not {stop}")
            return np.asarray(dataset[start:stop])

    def _dataset(self, name: str) -> h5py.Dataset:
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise TypeError(f"«{name}» is no array")
        if dataset.nbytes > self._bytes:  # a damaged header must not make us reserve a terabyte
            raise ValueError(f"«{name}» claims {dataset.nbytes} bytes")
        return dataset


def checksum(data: bytes | np.ndarray) -> int:
    """CRC-32 of bytes, or of an array's elements in C order."""
    if isinstance(data, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
    return zlib.crc32(data)


def damaged(path: Path, what: str) -> ArtifactError:
    """The error for a file that is not as it was written."""
    return ArtifactError(
        f"{path.name} is damaged: {what}",
        where=path,
        fix="copy it again from where it came from, or make the artifact again",
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a missing, truncated or overwritten file into an ArtifactError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"{path.name} is missing", where=path, fix="make the artifact again") from error
    except PermissionError as error:
        raise EnvironmentFault(f"no permission to read {path.name}", where=path, fix="change its permission") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise damaged(path, str(error)) from error
