"""The instructions of a compiled kernel, from NVIDIA's machine code (SASS): what a GPU issues, counted without one.

Counts are of the text: what is in a loop stands once. Code that is jumped over as a rule, such as the slow way of a
division, counts as well. NVIDIA, "CUDA Binary Utilities": `nvdisasm`, and the instruction sets of Hopper and Blackwell.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.a-z]*)\s*([^;]*);")
_LABEL = re.compile(r"(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
# what multiplies matrices, and what copies from global to shared memory while the program goes on
_PRODUCTS = frozenset("HGMMA QGMMA HMMA QMMA UTCHMMA UTCQMMA".split())
_ASYNCHRONOUS = frozenset("LDGSTS UTMALDG UBLKCP".split())
_WIDE_BYTES = 16


@dataclass(frozen=True)
class Accesses:
    """Loads or stores of global memory by a thread."""

    wide: int  # of 16 bytes and more
    narrow: int
    wide_bytes: int
    narrow_bytes: int


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel; `body` is its busiest innermost loop, or all of it where it has none."""

    instructions: int  # without NOP
    loads: Accesses  # asynchronous ones included; those by blocks (TMA) are not, since a thread asks for a whole tile
    stores: Accesses
    local_in_loops: int  # loads and stores of local memory, where spilled registers go, in any loop
    products: Mapping[str, int]  # name of the instruction -> how many
    asynchronous: int  # loads past the registers
    loops: int
    body: int  # instructions
    body_bytes: int  # of global memory that a thread reads and writes in it
    barriers: int  # at which all warps of a program meet, in the innermost loop that has most of them

    @property
    def a_byte(self) -> float | None:
        """Instructions of the body for each byte of global memory; None where it moves none."""
        return self.body / self.body_bytes if self.body_bytes else None


@dataclass(frozen=True)
class _Instruction:
    name: str
    conditional: bool
    operands: str

    @property
    def kind(self) -> str:
        return self.name.partition(".")[0]

    def ends(self) -> bool:
        """Whether the next one is never reached from here."""
        jump = self.kind == "BRA" and _TARGET.fullmatch(self.operands.strip()) is not None
        return not self.conditional and (jump or self.kind in ("EXIT", "RET", "BRX"))


def read(text: str) -> Code:
    """Count what `nvdisasm -c` prints of one kernel.

    Raises:
        ValueError: there is no instruction in it.
    """
    blocks, successors = _flow(text)
    every = [instruction for block in blocks for instruction in block]
    if not every:
        raise ValueError(f"got no instruction in {text[:200]!r}, expected the output of nvdisasm -c")
    # a kernel ends in a jump to itself that nothing reaches
    inner = [
        [instruction for index in sorted(loop) for instruction in blocks[index]]
        for loop in _innermost(successors)
        if sum(len(blocks[index]) for index in loop) > 1
    ]
    outer = {index for component in _components(successors) for index in component}
    names = Counter(instruction.kind for instruction in every)
    body = max(inner, key=len, default=every)
    reads, writes = _accesses(body, "LDG", "LDGSTS"), _accesses(body, "STG")
    return Code(
        instructions=len(every),
        loads=_accesses(every, "LDG", "LDGSTS"),
        stores=_accesses(every, "STG"),
        local_in_loops=sum(one.kind in ("LDL", "STL") for index in outer for one in blocks[index]),
        products={name: names[name] for name in sorted(_PRODUCTS & names.keys())},
        asynchronous=sum(names[name] for name in _ASYNCHRONOUS),
        loops=len(inner),
        body=len(body),
        body_bytes=reads.wide_bytes + reads.narrow_bytes + writes.wide_bytes + writes.narrow_bytes,
        barriers=max((sum(one.kind == "BAR" for one in loop) for loop in inner), default=0),
    )


def _accesses(instructions: Collection[_Instruction], *kinds: str) -> Accesses:
    sizes = [_bytes(one.name) for one in instructions if one.kind in kinds]
    wide = [size for size in sizes if size >= _WIDE_BYTES]
    return Accesses(len(wide), len(sizes) - len(wide), sum(wide), sum(sizes) - sum(wide))


def _bytes(name: str) -> int:
    """What one thread moves by a load or store of that name."""
    words = name.split(".")
    if bits := next((word for word in words if word in ("64", "128", "256")), None):
        return int(bits) // 8
    return next((int(word[1:]) // 8 for word in words if word in ("U8", "S8", "U16", "S16")), 4)


# ---------------------------------------------------------------- loops


def _flow(text: str) -> tuple[list[list[_Instruction]], dict[int, set[int]]]:
    """Blocks of instructions, in order, and which block may follow which."""
    blocks: list[list[_Instruction]] = [[]]
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            blocks.append([])
            labels[label[1]] = len(blocks) - 1
        elif (found := _INSTRUCTION.match(line)) and found[2] != "NOP":
            blocks[-1].append(_Instruction(found[2], found[1] is not None, found[3]))
            if found[2].partition(".")[0] in ("BRA", "EXIT", "RET", "BRX"):
                blocks.append([])
    successors: dict[int, set[int]] = {index: set() for index in range(len(blocks))}
    for index, block in enumerate(blocks):
        last = block[-1] if block else None
        if index + 1 < len(blocks) and (last is None or not last.ends()):
            successors[index].add(index + 1)
        if last is not None and last.kind == "BRA" and (target := _TARGET.search(last.operands)):
            successors[index].add(labels[target[1]])
    return blocks, successors


def _innermost(successors: Mapping[int, set[int]]) -> Iterator[frozenset[int]]:
    """Loops that hold no other: what is left of a loop without its first block has no way round."""
    for component in _components(successors):
        rest = component - {min(component)}
        nested = list(_innermost({block: successors[block] & rest for block in rest}))
        yield from nested or [component]


def _components(successors: Mapping[int, set[int]]) -> set[frozenset[int]]:
    """Blocks that lead to themselves, with all that lie on the same ways round."""
    reached = {block: _reached(block, successors) for block in successors}
    return {
        frozenset(other for other in reached[block] if block in reached[other])
        for block in successors
        if block in reached[block]
    }


def _reached(block: int, successors: Mapping[int, set[int]]) -> set[int]:
    reached: set[int] = set()
    following = set(successors[block])
    while following:
        reached |= following
        following = {after for before in following for after in successors[before]} - reached
    return reached
