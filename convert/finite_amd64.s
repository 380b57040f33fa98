//go:build !purego

#include "textflag.h"

// func scanAVX2(p *byte, n int, mask, one, top uint64) bool
TEXT ·scanAVX2(SB), NOSPLIT, $0-41
	MOVQ         p+0(FP), SI
	MOVQ         n+8(FP), CX
	VPBROADCASTQ mask+16(FP), Y0
	VPBROADCASTQ one+24(FP), Y1
	VPBROADCASTQ top+32(FP), Y2
	VPXOR        Y3, Y3, Y3

loop:
	VPAND  (SI), Y0, Y4
	VPAND  32(SI), Y0, Y5
	VPAND  64(SI), Y0, Y6
	VPAND  96(SI), Y0, Y7
	VPADDD Y1, Y4, Y4
	VPADDD Y1, Y5, Y5
	VPADDD Y1, Y6, Y6
	VPADDD Y1, Y7, Y7
	VPOR   Y5, Y4, Y4
	VPOR   Y7, Y6, Y6
	VPOR   Y4, Y3, Y3
	VPOR   Y6, Y3, Y3
	ADDQ   $128, SI
	SUBQ   $128, CX
	JNZ    loop

	VPTEST Y2, Y3
	SETNE  ret+40(FP)
	VZEROUPPER
	RET
