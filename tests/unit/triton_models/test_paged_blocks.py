from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from triton_models.cpu_engine.paged_blocks import BlockPool, OutOfBlocksError

BLOCKS = 12


class Ownership(RuleBasedStateMachine):
    """Whatever is allocated and released in whatever order, a block has one owner."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, block_tokens=4)
        self.owned: list[int] = []

    @rule(target=held, count=st.integers(0, BLOCKS + 1))
    def allocate(self, count):
        if count > self.pool.free_blocks:
            with pytest.raises(OutOfBlocksError):
                self.pool.allocate(count)
            return ()
        blocks = self.pool.allocate(count)
        assert len(blocks) == count
        self.owned.extend(blocks)
        return blocks

    @rule(blocks=consumes(held))
    def release(self, blocks):
        self.pool.release(blocks)
        for block in blocks:
            self.owned.remove(block)

    @invariant()
    def one_owner_each(self):
        assert len(set(self.owned)) == len(self.owned)
        assert set(self.owned) <= set(range(BLOCKS))
        assert self.pool.free_blocks == BLOCKS - len(self.owned)


TestOwnership = Ownership.TestCase


def test_a_block_released_twice_is_refused():
    pool = BlockPool(2, 4)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(ValueError, match="free already"):
        pool.release(blocks)
    assert pool.free_blocks == 2


@given(tokens=st.integers(0, 10_000), block_tokens=st.integers(1, 64))
def test_blocks_for_is_the_least_number_that_holds_the_tokens(tokens, block_tokens):
    blocks = BlockPool(1, block_tokens).blocks_for(tokens)
    assert (blocks - 1) * block_tokens < tokens <= blocks * block_tokens or tokens == blocks == 0
