"""Image files outside of a data set, in the order of their names."""

import os
from pathlib import Path

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import require_folder
from wpl_jax.data.images.image_folder import ENDINGS


def find_images(path: Path) -> list[Path]:
    """The image files at a path.

    Args:
      path: An image file, or a folder of image files, in which folders are searched.

    Returns:
      The files, sorted; of a folder those with the ending of an image.

    Raises:
      DataError: If nothing is there, or no image is in the folder.
    """
    if path.is_file():
        return [path]
    expected = "an image file, a folder of image files, or a .npy file"
    require_folder(path, expected)
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if Path(name).suffix.lower() in ENDINGS
    ]
    if not files:
        remedy = f"put image files there, ending in {', '.join(ENDINGS)}"
        raise DataError(path, "a folder without image files", expected, remedy)
    return sorted(files)
