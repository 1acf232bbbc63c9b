"""Names in a sentence."""

from fastsemi.common.listed import listed


def test_a_name_with_a_comma_is_one_name():
    assert listed(["cat", "food, drink"]) == 'cat, "food, drink"'
    assert listed(list("abcdef")) == "a, b, c, d, e, ..." and listed(list("abcdef"), "!") == "a, b, c, d, e!"
    assert listed(list("abcde"), "!") == "a, b, c, d, e" and listed([]) == ""
