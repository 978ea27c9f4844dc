"""Text from outside, made harmless to show."""


def escaped(text: str) -> str:
    r"""Make text safe for a terminal and a log: `\x1b` and its like become visible.

    What Unicode calls not printable is escaped: control, format (such as right-to-left
    overrides) and unassigned characters, all separators but the space.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
