"""Animations as GIF files."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from wpl_jax.reports.page import make_plain
from wpl_jax.runs.run_files import write_atomically

MILLISECONDS = 500  # that a frame is shown
_COLORS = 64
_DPI = 80  # pixels in an inch
_NO_DITHER = Image.Dither.NONE


def write_gif(
    frames: Sequence[Image.Image], path: Path, milliseconds: int = MILLISECONDS
) -> None:
    """Writes images as a GIF that repeats.

    Args:
      frames: Images of one size, at least one.
      path: The file.
      milliseconds: That each is shown.

    Raises:
      UserError: If the file cannot be written.
    """
    gif = io.BytesIO()
    palette = _palette([frames[0], frames[len(frames) // 2], frames[-1]])
    # With one palette, what does not move is not written again.
    first, *others = (f.quantize(palette=palette, dither=_NO_DITHER) for f in frames)
    first.save(
        gif,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
    )
    write_atomically(path, gif.getvalue())


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """An image with the colors of some frames."""
    width, height = frames[0].size
    together = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        together.paste(frame, (0, number * height))
    return together.quantize(_COLORS)


def frames_of(
    figure: Figure,
    moving: Sequence[Artist],
    move: Callable[[int], None],
    count: int,
) -> Iterator[Image.Image]:
    """Draws a figure of which only some artists move; the rest is drawn once.

    Args:
      figure: With its layout.
      moving: Its artists that move.
      move: Changes them for a frame, a function of its number.
      count: Number of frames.

    Yields:
      The frames.
    """
    figure.set_dpi(_DPI)
    make_plain(figure)
    canvas = FigureCanvasAgg(figure)
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    for number in range(count):
        move(number)
        canvas.restore_region(still)
        for artist in moving:
            artist.draw(canvas.get_renderer())
        size = canvas.get_width_height()
        image = Image.frombytes("RGBA", size, bytes(canvas.buffer_rgba()))
        yield image.convert("RGB")
