"""Images: file formats, checks, and what is held out."""
