"""The registry of formats: a new one is a module and a line in FORMATS."""

from wpl_jax.data.cifar_binary import read_cifar_binary
from wpl_jax.data.digits import read_digits
from wpl_jax.data.idx import read_idx
from wpl_jax.data.image_folder import read_image_folder
from wpl_jax.data.npz import read_npz
from wpl_jax.data.source import Reader
from wpl_jax.data.tfds import read_tfds

FORMATS: dict[str, Reader] = {
    "cifar_binary": read_cifar_binary,
    "digits": read_digits,
    "folder": read_image_folder,
    "idx": read_idx,
    "npz": read_npz,
    "tfds": read_tfds,
}
