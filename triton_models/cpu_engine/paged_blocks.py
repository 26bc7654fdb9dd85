"""Hands out the blocks of the paged KV cache."""

from __future__ import annotations

from collections.abc import Sequence


class OutOfBlocksError(Exception):
    """Fewer blocks are free than were requested."""


class BlockPool:
    """A fixed number of KV blocks, each with at most one owner.

    Args:
        blocks: How many blocks there are.
        block_tokens: Tokens a block holds.
    """

    def __init__(self, blocks: int, block_tokens: int) -> None:
        if blocks < 1 or block_tokens < 1:
            raise ValueError("a pool needs at least one block of at least one token")
        self.total_blocks = blocks
        self.block_tokens = block_tokens
        self._free = list(range(blocks - 1, -1, -1))
        self._is_free = [True] * blocks

    @property
    def free_blocks(self) -> int:
        """The number of blocks without an owner."""
        return len(self._free)

    @property
    def total_tokens(self) -> int:
        """Tokens the whole pool holds."""
        return self.total_blocks * self.block_tokens

    def blocks_for(self, tokens: int) -> int:
        """The number of blocks for a number of tokens."""
        return -(-tokens // self.block_tokens)

    def allocate(self, count: int) -> tuple[int, ...]:
        """Take `count` blocks, all or none.

        Raises:
            OutOfBlocksError: fewer are free.
        """
        if count > len(self._free):
            raise OutOfBlocksError(f"{count} blocks wanted, {len(self._free)} free")
        taken = tuple(self._free.pop() for _ in range(count))
        for block in taken:
            self._is_free[block] = False
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back.

        Raises:
            ValueError: one of them is free already, which would give it to two owners.
        """
        for block in blocks:
            if self._is_free[block]:
                raise ValueError(f"block {block} is free already")
            self._is_free[block] = True
            self._free.append(block)
