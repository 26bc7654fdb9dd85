from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from services.common.text.token_bytes import token_bytes
from services.router.text.detokenisation import Detokeniser
from tests.fakes.tiny_text import tiny_tokeniser_json

WHOLE = Tokenizer.from_str(tiny_tokeniser_json().decode())
TABLE = token_bytes(WHOLE.get_vocab(), [0, 1, 2])
IDS = st.integers(0, WHOLE.get_vocab_size() - 1)


@given(st.lists(st.lists(IDS, max_size=4), max_size=40))
def test_pieces_joined_are_the_whole_whatever_the_cut(chunks):
    detokeniser = Detokeniser(TABLE)
    text = "".join(detokeniser.feed(chunk) for chunk in chunks) + detokeniser.finish()
    ids = [token_id for chunk in chunks for token_id in chunk]
    assert text == WHOLE.decode(ids, skip_special_tokens=True)


@given(st.text(alphabet=st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), max_size=30))
def test_no_piece_splits_a_character(text):
    detokeniser = Detokeniser(TABLE)
    pieces = [detokeniser.feed([token_id]) for token_id in WHOLE.encode(text).ids]
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)
    assert "".join(pieces) + detokeniser.finish() == text


def test_an_emoji_waits_for_its_last_byte():
    detokeniser = Detokeniser([b"\xf0\x9f", b"\x97", b"\xbc!"])
    assert [detokeniser.feed([token_id]) for token_id in (0, 1, 2)] == ["", "", "🗼!"]


def test_a_sequence_that_never_ends_is_one_replacement():
    detokeniser = Detokeniser([b"\xf0\x9f"])
    assert detokeniser.feed([0]) == ""
    assert detokeniser.finish() == "\ufffd"


def test_ids_outside_the_vocabulary_add_nothing():
    assert Detokeniser([b"a"]).feed([-1, 0, 99]) == "a"


def test_special_tokens_are_silent_and_foreign_characters_their_own_bytes():
    assert token_bytes({"<|im_end|>": 0, "Ġhi": 1, "日本": 3}, [0]) == (b"", b" hi", b"", "日本".encode())
