"""What is counted in machine code: planted text, and what it says of kernels whose loops are known."""

import pytest

from litespark.ops.compilation import Resources
from litespark.ops.instructions import read
from litespark.ops.occupancy import memory_share, programs_at_once

# two loops, one in the other, a detour that comes back, and the jump to itself that ends every kernel
TEXT = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR6][R18.64] ;
        /*0020*/                   LDG.E.U16 R4, desc[UR6][R18.64] ;
.L_x_0:
        /*0030*/                   LDGSTS.E.BYPASS.LTC128B.128 [R2], desc[UR6][R4.64] ;
        /*0040*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_1:
        /*0050*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0060*/                   LDL R5, [R1] ;
        /*0070*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0080*/              @P1 BRA `(.L_x_3) ;
.L_x_2:
        /*0090*/                   STG.E.64 desc[UR6][R2.64], R8 ;
        /*00a0*/              @P2 BRA `(.L_x_1) ;
        /*00b0*/              @UP0 BRA.U UP1, `(.L_x_0) ;
        /*00c0*/                   STL [R1], R5 ;
        /*00d0*/                   EXIT ;
.L_x_3:
        /*00e0*/                   IMAD.MOV.U32 R5, RZ, RZ, R4 ;
        /*00f0*/                   BRA `(.L_x_2) ;
.L_x_4:
        /*0100*/                   BRA `(.L_x_4);
        /*0110*/                   NOP;
"""


def test_accesses_loops_products_and_barriers_of_a_text():
    code = read(TEXT)
    assert code.instructions == 17
    assert (code.loads.wide, code.loads.narrow, code.loads.wide_bytes, code.loads.narrow_bytes) == (2, 1, 32, 2)
    assert (code.stores.wide, code.stores.narrow_bytes) == (0, 8)
    assert code.asynchronous == 1
    assert code.products == {"HGMMA": 1}
    # the inner loop with its detour, once round: the outer one's barrier is not its own
    assert (code.loops, code.body, code.body_bytes, code.barriers) == (1, 8, 8, 1)
    assert code.a_byte == 1.0
    assert code.local_in_loops == 1  # what is stored after the loops does not count


def test_a_detour_that_comes_back_is_no_loop():
    straight = TEXT.replace("@P2 BRA `(.L_x_1)", "@P2 BRA `(.L_x_2)").replace("BRA.U UP1, `(.L_x_0)", "MOV R1, R2")
    straight = straight.replace("@P2 BRA `(.L_x_2) ;", "MOV R2, R3 ;")
    code = read(straight)
    assert (code.loops, code.barriers, code.local_in_loops) == (0, 0, 0)
    assert code.body == code.instructions


def test_a_text_without_instructions_is_refused():
    with pytest.raises(ValueError, match="got no instruction in 'nothing', expected the output of nvdisasm -c"):
        read("nothing")


def test_how_many_programs_fit_and_what_instructions_leave_of_the_memory():
    def needs(registers: int, shared_bytes: int) -> Resources:
        return Resources(registers, 0, shared_bytes)

    assert programs_at_once(needs(32, 0), 4) == 16  # as many as 64 warps are
    assert programs_at_once(needs(129, 0), 8) == 1  # 136 registers are given out
    assert programs_at_once(needs(128, 0), 8) == 2
    assert programs_at_once(needs(32, 113 * 1024), 4) == 2
    assert programs_at_once(needs(255, 0), 16) == 0
    # one instruction a byte leaves the memory all of its rate; 15.6 leave half
    assert memory_share(read(TEXT)) == 1.0
    many = TEXT.replace(
        "        /*0050*/", "        /*0050*/                   MOV R1, R2 ;\n" * 117 + "        /*0050*/"
    )
    assert memory_share(read(many)) == pytest.approx(0.5, abs=0.01)
