from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.router.text.stop_sequences import StopMatcher

TEXT = st.text(alphabet="ab🗼", max_size=30)
SEQUENCES = st.lists(st.text(alphabet="ab🗼", min_size=1, max_size=5), max_size=4)


def ends_first(text: str, sequences: list[str]) -> tuple[str, bool]:
    """The oracle: the first character that completes a sequence, and the longest that it completes."""
    for end in range(1, len(text) + 1):
        complete = [len(sequence) for sequence in sequences if text[:end].endswith(sequence)]
        if complete:
            return text[: end - max(complete)], True
    return text, False


def fed(sequences: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher, out = StopMatcher(sequences), ""
    for piece in pieces:
        result = matcher.feed(piece)
        out += result.text
        if result.stopped:
            return out, True
    return out + matcher.finish(), False


@given(SEQUENCES, st.lists(TEXT, max_size=8))
def test_the_cut_into_pieces_changes_nothing(sequences, pieces):
    assert fed(sequences, pieces) == ends_first("".join(pieces), sequences)


@given(SEQUENCES, st.lists(TEXT, max_size=8))
def test_nothing_is_held_that_cannot_become_a_stop_sequence(sequences, pieces):
    matcher, out = StopMatcher(sequences), ""
    for piece in pieces:
        result = matcher.feed(piece)
        out += result.text
        if result.stopped:
            return
        held = "".join(pieces)[len(out) :][: len(matcher._held)]
        assert not held or any(sequence.startswith(held) for sequence in sequences)


def test_a_sequence_across_three_pieces_is_no_part_of_the_text():
    assert fed(["STOP"], ["one S", "TO", "P two"]) == ("one ", True)


def test_what_only_looked_like_one_comes_out():
    assert fed(["STOP"], ["one S", "TO", "G"]) == ("one STOG", False)


def test_without_sequences_text_passes_untouched():
    matcher = StopMatcher([])
    assert matcher.feed("text").text == "text"
    assert matcher.finish() == ""
