//go:build !purego

#include "textflag.h"

// func vzeroupper()
TEXT ·vzeroupper(SB), NOSPLIT, $0-0
	VZEROUPPER
	RET

// func fillUpper()
TEXT ·fillUpper(SB), NOSPLIT, $0-0
	VPCMPEQB Y0, Y0, Y0
	VMOVDQA  Y0, Y1
	VMOVDQA  Y0, Y2
	VMOVDQA  Y0, Y3
	VMOVDQA  Y0, Y4
	VMOVDQA  Y0, Y5
	VMOVDQA  Y0, Y6
	VMOVDQA  Y0, Y7
	VMOVDQA  Y0, Y8
	VMOVDQA  Y0, Y9
	VMOVDQA  Y0, Y10
	RET

// func stateInUse() uint32
TEXT ·stateInUse(SB), NOSPLIT, $0-4
	MOVL $1, CX
	XGETBV
	MOVL AX, ret+0(FP)
	RET
