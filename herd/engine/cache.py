"""Which blocks of the key-value cache hold what: allocation, sharing of equal prefixes, eviction.

A full block is known by the digest of all tokens up to its end. A block that nobody uses keeps its contents until its
place is needed, least recently used first, so a later prompt with the same beginning finds them.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence


class BlockCache:
    """`count` blocks of `size` positions each."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._users = [0] * count
        self._digest: list[bytes | None] = [None] * count
        self._known: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))

    @property
    def free(self) -> int:
        """Blocks that nobody uses."""
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` positions."""
        return -(-tokens // self.size)

    def digest(self, before: bytes, tokens: Sequence[int]) -> bytes:
        """The name of a block that follows block `before` (b"" for none) and holds `tokens`."""
        return hashlib.blake2b(array("i", tokens).tobytes(), digest_size=16, key=before).digest()

    def name(self, tokens: Sequence[int], names: list[bytes], i: int) -> bytes:
        """The digest of all of `tokens` through block `i`; `names` are those of the blocks before, as far as they are known."""
        while len(names) <= i:
            at = len(names) * self.size
            names.append(self.digest(names[-1] if names else b"", tokens[at : at + self.size]))
        return names[i]

    def find(self, digest: bytes) -> int | None:
        """The block with these contents, if the cache has it."""
        return self._known.get(digest)

    def use(self, block: int) -> None:
        """One more user for a block with known contents."""
        self._users[block] += 1
        self._free.pop(block, None)

    def allocate(self) -> int:
        """An empty block for one user; the caller has seen that one is free."""
        block, _ = self._free.popitem(last=False)
        digest = self._digest[block]
        if digest is not None:
            del self._known[digest]
            self._digest[block] = None
        self._users[block] = 1
        return block

    def publish(self, block: int, digest: bytes) -> None:
        """Let others find a block whose contents are complete; the first of equals is the one they find."""
        if digest not in self._known and self._digest[block] is None:
            self._known[digest] = block
            self._digest[block] = digest

    def forget(self, blocks: Sequence[int]) -> None:
        """Let nobody find these blocks any more; who uses them keeps them."""
        for block in blocks:
            digest = self._digest[block]
            if digest is not None:
                del self._known[digest]
                self._digest[block] = None

    def clear(self) -> None:
        """Forget the contents of all blocks."""
        self.forget(range(self.count))

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each; the ends of sequences are evicted before their beginnings."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free[block] = None
                if self._digest[block] is None:
                    self._free.move_to_end(block, last=False)
