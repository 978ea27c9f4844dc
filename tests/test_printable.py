from hypothesis import given
from hypothesis import strategies as st

from p2pd.printable import escaped


@given(st.text())
def test_the_result_is_printable_and_printable_text_is_left_alone(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


def test_escapes_become_visible() -> None:
    assert escaped("a\x1b[2J\n\x9b\u202eü") == r"a\x1b[2J\n\x9b\u202eü"
