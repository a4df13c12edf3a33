"""Images and text, from files, folders, public data sets and what is built in."""

from wpl_jax.data.errors import DataError as DataError
from wpl_jax.data.images.formats import FORMATS as FORMATS
from wpl_jax.data.images.load import ImageDataset as ImageDataset
from wpl_jax.data.images.load import images_of_arrays as images_of_arrays
from wpl_jax.data.images.load import load_images as load_images
from wpl_jax.data.images.load import open_images as open_images
from wpl_jax.data.images.source import Source as Source
from wpl_jax.data.images.source import Split as Split
from wpl_jax.data.text.batches import batchify as batchify
from wpl_jax.data.text.formats import TEXT_FORMATS as TEXT_FORMATS
from wpl_jax.data.text.load import TextDataset as TextDataset
from wpl_jax.data.text.load import load_text as load_text
from wpl_jax.data.text.load import text_of_strings as text_of_strings
from wpl_jax.data.text.source import TextSource as TextSource
from wpl_jax.data.text.source import TextSplit as TextSplit
