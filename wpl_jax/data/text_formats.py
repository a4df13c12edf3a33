"""The registry of text formats: a new one is a module and a line here."""

from wpl_jax.data.pydoc_topics import read_pydoc
from wpl_jax.data.text_folder import read_text_folder
from wpl_jax.data.text_source import TextReader

TEXT_FORMATS: dict[str, TextReader] = {
    "folder": read_text_folder,
    "pydoc": read_pydoc,
}
