"""Text: file formats, vocabularies, and parallel streams."""
