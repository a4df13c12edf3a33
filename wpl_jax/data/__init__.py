"""Images and text, from files, folders, public data sets and what is built in."""

from wpl_jax.data.errors import DataError as DataError
from wpl_jax.data.formats import FORMATS as FORMATS
from wpl_jax.data.images import ImageDataset as ImageDataset
from wpl_jax.data.images import load_images as load_images
from wpl_jax.data.images import open_images as open_images
from wpl_jax.data.source import Source as Source
from wpl_jax.data.source import Split as Split
from wpl_jax.data.text import TextDataset as TextDataset
from wpl_jax.data.text import load_text as load_text
from wpl_jax.data.text_batches import batchify as batchify
from wpl_jax.data.text_formats import TEXT_FORMATS as TEXT_FORMATS
from wpl_jax.data.text_source import TextSource as TextSource
from wpl_jax.data.text_source import TextSplit as TextSplit
