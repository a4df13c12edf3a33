"""The registry of formats: a new one is a module and a line in FORMATS."""

from wpl_jax.data.images.cifar_binary import read_cifar_binary
from wpl_jax.data.images.digits import read_digits
from wpl_jax.data.images.idx import read_idx
from wpl_jax.data.images.image_folder import read_image_folder
from wpl_jax.data.images.npz import read_npz
from wpl_jax.data.images.source import Reader
from wpl_jax.data.images.tfds import read_tfds

FORMATS: dict[str, Reader] = {
    "cifar_binary": read_cifar_binary,
    "digits": read_digits,
    "folder": read_image_folder,
    "idx": read_idx,
    "npz": read_npz,
    "tfds": read_tfds,
}
