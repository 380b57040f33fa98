package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "bitnet", norm: spec.RMSNorm, pairs: halves,
	norms:       plainNorms,
	attention:   attention{innerNorm: "attn_sub_norm"},
	feedForward: feedForward{activation: spec.SiLU, innerNorm: "ffn_sub_norm"},
	head:        tied,
})
