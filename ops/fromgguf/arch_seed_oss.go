package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "seed_oss", norm: spec.RMSNorm, pairs: halves,
	norms:       norms{preMix: "attn_norm", preFFN: "post_attention_norm"},
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.SiLU},
})
