#include "textflag.h"

// One row's 32 codes times the probe's, added to eight int32 of acc. VPMADDUBSW
// multiplies unsigned by signed, so the probe's signs (Y8) go to the row's
// codes, and its absolute values (Y9) are the unsigned side.
#define ROW(offset, tmp, acc) \
	VMOVDQU    offset(SI), tmp; \
	VPSIGNB    Y8, tmp, tmp;    \
	VPMADDUBSW tmp, Y9, tmp;    \
	VPMADDWD   Y15, tmp, tmp;   \
	VPADDD     tmp, acc, acc

// func scanTilesAVX2(codes, probe *int8, chunks int, scales *float32, residuals *uint32, norm, limit float32, tile, tiles int, upper *[8]float32) int
TEXT ·scanTilesAVX2(SB), NOSPLIT, $0-80
	MOVQ         codes+0(FP), SI
	MOVQ         probe+8(FP), DI
	MOVQ         chunks+16(FP), CX
	MOVQ         scales+24(FP), R8
	MOVQ         residuals+32(FP), R9
	VBROADCASTSS norm+40(FP), Y13
	VBROADCASTSS limit+44(FP), Y14
	MOVQ         tile+48(FP), R10
	MOVQ         tiles+56(FP), R11
	VPCMPEQW     Y15, Y15, Y15       // sixteen times 1
	VPSRLW       $15, Y15, Y15
	MOVQ         R10, AX             // a tile has 256 bytes a chunk
	IMULQ        CX, AX
	SHLQ         $8, AX
	ADDQ         AX, SI
	MOVQ         R10, AX             // and eight float32 each
	SHLQ         $5, AX
	ADDQ         AX, R8
	ADDQ         AX, R9

tile:
	CMPQ  R10, R11
	JGE   done
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3
	VPXOR Y4, Y4, Y4
	VPXOR Y5, Y5, Y5
	VPXOR Y6, Y6, Y6
	VPXOR Y7, Y7, Y7
	MOVQ  DI, DX
	MOVQ  CX, BX

chunk:
	VMOVDQU (DX), Y8
	VPABSB  Y8, Y9
	ROW(0, Y10, Y0)
	ROW(32, Y11, Y1)
	ROW(64, Y12, Y2)
	ROW(96, Y10, Y3)
	ROW(128, Y11, Y4)
	ROW(160, Y12, Y5)
	ROW(192, Y10, Y6)
	ROW(224, Y11, Y7)
	ADDQ    $256, SI
	ADDQ    $32, DX
	DECQ    BX
	JNZ     chunk

	// Eight times eight int32 become the eight rows' sums, in order.
	VPHADDD    Y1, Y0, Y0
	VPHADDD    Y3, Y2, Y2
	VPHADDD    Y5, Y4, Y4
	VPHADDD    Y7, Y6, Y6
	VPHADDD    Y2, Y0, Y0
	VPHADDD    Y6, Y4, Y4
	VPERM2I128 $0x20, Y4, Y0, Y1
	VPERM2I128 $0x31, Y4, Y0, Y2
	VPADDD     Y2, Y1, Y0

	// dot*scale + norm*residual, rounded after each step.
	VCVTDQ2PS Y0, Y0
	VMULPS    (R8), Y0, Y0
	VMULPS    (R9), Y13, Y1
	VADDPS    Y1, Y0, Y0
	ADDQ      $32, R8
	ADDQ      $32, R9
	VCMPPS    $0x1D, Y14, Y0, Y1 // at least, and false for NaN
	VMOVMSKPS Y1, AX
	TESTL     AX, AX
	JNZ       found
	INCQ      R10
	JMP       tile

found:
	MOVQ    upper+64(FP), AX
	VMOVUPS Y0, (AX)

done:
	MOVQ R10, ret+72(FP)
	VZEROUPPER
	RET
