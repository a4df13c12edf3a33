"""Images for classification, from files, folders and public data sets."""

from wpl_jax.data.errors import DataError as DataError
from wpl_jax.data.formats import FORMATS as FORMATS
from wpl_jax.data.images import ImageDataset as ImageDataset
from wpl_jax.data.images import load_images as load_images
from wpl_jax.data.source import Source as Source
from wpl_jax.data.source import Split as Split
