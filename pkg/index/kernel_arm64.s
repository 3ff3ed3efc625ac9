#include "textflag.h"

// Instructions that Go's assembler does not know, on vector registers by
// number, operands in its order: sources first, the destination last.
#define SMULL(m, n, d)  WORD $(0x0E20C000 | (m)<<16 | (n)<<5 | (d)) // smull  Vd.8h, Vn.8b, Vm.8b
#define SMLAL2(m, n, d) WORD $(0x4E208000 | (m)<<16 | (n)<<5 | (d)) // smlal2 Vd.8h, Vn.16b, Vm.16b
#define SADALP(n, d)    WORD $(0x4E606800 | (n)<<5 | (d))           // sadalp Vd.4s, Vn.8h
#define SCVTF(n, d)     WORD $(0x4E21D800 | (n)<<5 | (d))           // scvtf  Vd.4s, Vn.4s
#define FMUL(m, n, d)   WORD $(0x6E20DC00 | (m)<<16 | (n)<<5 | (d)) // fmul   Vd.4s, Vn.4s, Vm.4s
#define FADD(m, n, d)   WORD $(0x4E20D400 | (m)<<16 | (n)<<5 | (d)) // fadd   Vd.4s, Vn.4s, Vm.4s
#define FCMGE(m, n, d)  WORD $(0x6E20E400 | (m)<<16 | (n)<<5 | (d)) // fcmge  Vd.4s, Vn.4s, Vm.4s

// One row's 32 codes times the probe's (V16, V17), added to four int32 of
// V<acc>. Two products fit an int16.
#define ROW(acc) \
	VLD1.P 32(R0), [V18.B16, V19.B16]; \
	SMULL(16, 18, 20);                 \
	SMULL(17, 19, 21);                 \
	SMLAL2(16, 18, 20);                \
	SMLAL2(17, 19, 21);                \
	SADALP(20, acc);                   \
	SADALP(21, acc)

// func scanTilesNEON(codes, probe *int8, chunks int, scales *float32, residuals *uint32, norm, limit float32, tile, tiles int, upper *[8]float32) int
TEXT ·scanTilesNEON(SB), NOSPLIT, $0-80
	MOVD  codes+0(FP), R0
	MOVD  probe+8(FP), R1
	MOVD  chunks+16(FP), R2
	MOVD  scales+24(FP), R3
	MOVD  residuals+32(FP), R4
	FMOVS norm+40(FP), F24
	FMOVS limit+44(FP), F25
	MOVD  tile+48(FP), R5
	MOVD  tiles+56(FP), R6
	VDUP  V24.S[0], V24.S4
	VDUP  V25.S[0], V25.S4
	MUL   R5, R2, R7       // a tile has 256 bytes a chunk
	ADD   R7<<8, R0, R0
	ADD   R5<<5, R3, R3    // and eight float32 each
	ADD   R5<<5, R4, R4

tile:
	CMP  R6, R5
	BGE  done
	VEOR V0.B16, V0.B16, V0.B16
	VEOR V1.B16, V1.B16, V1.B16
	VEOR V2.B16, V2.B16, V2.B16
	VEOR V3.B16, V3.B16, V3.B16
	VEOR V4.B16, V4.B16, V4.B16
	VEOR V5.B16, V5.B16, V5.B16
	VEOR V6.B16, V6.B16, V6.B16
	VEOR V7.B16, V7.B16, V7.B16
	MOVD R1, R8
	MOVD R2, R9

chunk:
	VLD1.P 32(R8), [V16.B16, V17.B16]
	ROW(0)
	ROW(1)
	ROW(2)
	ROW(3)
	ROW(4)
	ROW(5)
	ROW(6)
	ROW(7)
	SUBS   $1, R9
	BNE    chunk

	// Eight times four int32 become the eight rows' sums, in order.
	VADDP V1.S4, V0.S4, V0.S4
	VADDP V3.S4, V2.S4, V2.S4
	VADDP V5.S4, V4.S4, V4.S4
	VADDP V7.S4, V6.S4, V6.S4
	VADDP V2.S4, V0.S4, V0.S4
	VADDP V6.S4, V4.S4, V1.S4

	// dot*scale + norm*residual, rounded after each step.
	VLD1.P 32(R3), [V18.S4, V19.S4]
	VLD1.P 32(R4), [V20.S4, V21.S4]
	SCVTF(0, 0)
	SCVTF(1, 1)
	FMUL(18, 0, 0)
	FMUL(19, 1, 1)
	FMUL(20, 24, 20)
	FMUL(21, 24, 21)
	FADD(20, 0, 0)
	FADD(21, 1, 1)
	FCMGE(25, 0, 2)                 // at least, and false for NaN
	FCMGE(25, 1, 3)
	VORR   V3.B16, V2.B16, V2.B16
	VMOV   V2.D[0], R10
	VMOV   V2.D[1], R11
	ORR    R11, R10, R10
	CBNZ   R10, found
	ADD    $1, R5
	B      tile

found:
	MOVD upper+64(FP), R10
	VST1 [V0.S4, V1.S4], (R10)

done:
	MOVD R5, ret+72(FP)
	RET
