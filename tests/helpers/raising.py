"""What an error has to say."""

import re

import pytest


def assert_says(call, words, *arguments):
    """Checks that a call raises a ValueError with all of some words in its message."""
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        call(*arguments)
    assert all(word in str(error.value) for word in words), str(error.value)
