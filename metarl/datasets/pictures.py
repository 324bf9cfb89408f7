"""From the bytes of a picture to an array."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metarl.datasets.sets import ImageSet
from metarl.datasets.trees import DatasetError

MAX_PIXELS = 2**24


def decode(content: bytes, image_set: ImageSet, size: int, place: str) -> NDArray[np.uint8]:
    """A picture in the set's mode and at the size asked for.

    One-bit pictures become grey before they are resized: Pillow resizes one bit by nearest
    neighbour, whatever filter it is given. Ink becomes 255, paper 0.

    Args:
        content: a PNG or JPEG file.
        image_set: says how.
        size: pixels of each side.
        place: the file's name, for errors.

    Returns:
        ``[C, size, size]``.

    Raises:
        DatasetError: it cannot be decoded.
    """
    try:
        # Pillow checks the sums of a PNG's blocks only here, and wants it opened again afterwards.
        _open(content).verify()
        with _open(content) as picture:
            converted = picture.convert(image_set.mode)
    except (
        OSError,
        SyntaxError,
        ValueError,
        zlib.error,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        reason = str(error).partition("<_io")[0].strip() or "broken"
        raise DatasetError(
            f"{place}: is no picture that can be decoded ({reason}); copy or download it again."
        ) from None
    if converted.size != (size, size):
        converted = converted.resize((size, size), Image.Resampling[image_set.resize])
    array = np.asarray(converted, np.uint8).reshape(size, size, -1).transpose(2, 0, 1)
    return 255 - array if image_set.invert else array


def _open(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
    return picture
