"""Numbers with a noun, as printed lines and reports have them."""


def counted(number: int | str, noun: str, plural: str | None = None) -> str:
    """A number and its noun, which is in the singular after 1.

    Args:
      number: An integer; or numbers as text, such as a range "1 to 50".
      noun: In the singular, with any words before it.
      plural: None for the noun with an "s".

    Examples:
      >>> counted(1, "seed"), counted(1200, "seed"), counted(2, "child", "children")
      ('1 seed', '1,200 seeds', '2 children')
      >>> counted("1", "batch", "batches"), counted("1 to 5", "batch", "batches")
      ('1 batch', '1 to 5 batches')
    """
    text = number if isinstance(number, str) else f"{number:,}"
    return f"{text} {noun if text == '1' else plural or noun + 's'}"
