package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// Llama, and what is like it but for biases, the pairs that turn, or the gate:
// Mistral, whose layers may all have a sliding window; Seed-OSS; ERNIE 4.5,
// whose pairs are interleaved; Arcee, without gate. SmolLM is a Llama.
var _ = register(family{
	classes: []string{
		"LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel", "MistralForCausalLM", "MistralModel",
		"SeedOssForCausalLM", "Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM", "ArceeForCausalLM",
	},
	read: func(r *reader) {
		norm, attn := r.decoder(1e-6)
		ernie := r.class == "Ernie4_5_ForCausalLM" || r.class == "Ernie4_5ForCausalLM"
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000, interleaved: ernie})
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		var bias, outBias, mlpBias bool
		switch {
		case r.class == "MistralForCausalLM", r.class == "MistralModel":
			attn.Window = r.count("sliding_window", 0)
		case ernie:
			bias = r.flag("use_bias", false)
			outBias, mlpBias = bias, bias
		case r.class == "SeedOssForCausalLM":
			bias, outBias, mlpBias = r.flag("attention_bias", true), r.flag("attention_out_bias", false), r.flag("mlp_bias", false)
		default:
			bias, mlpBias = r.flag("attention_bias", false), r.flag("mlp_bias", false)
			outBias = bias
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.preNorms(false)
			l.selfAttn(attn, bias, outBias)
			b := spec.Block{PreMix: norm, PreFFN: norm, Attention: attn}
			if r.class == "ArceeForCausalLM" {
				b.FFN = l.plainFFN("mlp.up_proj", "mlp.down_proj", act, inner, mlpBias)
			} else {
				b.FFN = l.mlp(act, inner, mlpBias)
			}
			return b
		})
		r.finish(norm, false, ernie)
	},
})
