"""The registry of text formats: a new one is a module and a line here."""

from wpl_jax.data.text.folder import read_text_folder
from wpl_jax.data.text.pydoc_topics import read_pydoc
from wpl_jax.data.text.source import TextReader

TEXT_FORMATS: dict[str, TextReader] = {
    "folder": read_text_folder,
    "pydoc": read_pydoc,
}
