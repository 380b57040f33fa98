package quantize

import (
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// Preset is a named mixture of types: a base type and, per role of a tensor,
// the exceptions that llama-quantize makes (llama-quant.cpp,
// llama_tensor_get_type_impl).
type Preset struct {
	Name     string
	FileType uint32    // general.file_type
	Type     gguf.Type // of every tensor that no rule gives another

	embedding  gguf.Type // of the token embedding where it is not the output too; zero: Type
	lowOutput  bool      // the output matrix is Q5_K instead of Q6_K
	lowBit     bool      // none of the exceptions for 70B and 8-expert models
	expertsFP4 bool      // expert matrices are MXFP4, all others Q8_0
	needsQ2    bool      // Q2_K tensors are refused without importance
	rules      map[role][]rule
}

// rule gives a tensor the type then where when holds; a nil when always holds.
// The first rule that holds decides.
type rule struct {
	when func(site) bool
	then gguf.Type
}

// site is what a rule may ask about the place of a tensor.
type site struct {
	layer, layers int // counted as llama-quantize counts them
	model         Model
	importance    bool // an importance matrix is used
}

func (s site) falcon() bool { return s.model.Arch == "falcon" }

// moreBits is llama-quantize's use_more_bits: the first and last eighth of the
// layers and every third between them.
func moreBits(s site) bool {
	return s.layer < s.layers/8 || s.layer >= 7*s.layers/8 || (s.layer-s.layers/8)%3 == 2
}

func firstEighth(s site) bool    { return s.layer < s.layers/8 }
func firstSixteenth(s site) bool { return s.layer < s.layers/16 }
func middle(s site) bool         { return s.layer >= s.layers/8 && s.layer < 7*s.layers/8 }
func firstTwo(s site) bool       { return s.layer < 2 }
func firstFour(s site) bool      { return s.layer < 4 }
func groupedQuery(s site) bool   { return s.model.groups() >= 4 }
func eightExperts(s site) bool   { return s.model.Experts == 8 }
func withImportance(s site) bool { return s.importance }
func noImportance(s site) bool   { return !s.importance }
func falcon(s site) bool         { return s.falcon() }
func notFalcon(s site) bool      { return !s.falcon() }

func groupedQueryOrExperts(s site) bool {
	return s.model.groups() >= 4 || s.model.Experts >= 4
}

func all(conditions ...func(site) bool) func(site) bool {
	return func(s site) bool {
		for _, c := range conditions {
			if !c(s) {
				return false
			}
		}
		return true
	}
}

func either(a, b func(site) bool) func(site) bool {
	return func(s site) bool { return a(s) || b(s) }
}

// lowBitRules are those of the presets below 3 bits: values and the first
// eighth of ffn_down get small, the attention output gets attn where it is
// not zero.
func lowBitRules(small, attn gguf.Type) map[role][]rule {
	r := map[role][]rule{
		attnV:      {{groupedQueryOrExperts, gguf.Q4_K}, {nil, small}},
		attnK:      {{eightExperts, gguf.Q4_K}},
		ffnDown:    {{firstEighth, small}},
		attnOutput: {{eightExperts, gguf.Q5_K}},
	}
	if attn != 0 {
		r[attnOutput] = append(r[attnOutput], rule{nil, attn})
	}
	return r
}

// eightExpertsOutput keeps the attention output of 8-expert models at Q5_K; it
// precedes a preset's own rules, which hold for the other models.
func eightExpertsOutput(others ...rule) []rule {
	return append([]rule{{all(notFalcon, eightExperts), gguf.Q5_K}}, others...)
}

// presets is the table of llama-quantize's file types. NVFP4, which
// llama-quantize knows but does not offer, is a plain mixture of its own.
var presets = []Preset{
	{Name: "F32", FileType: 0, Type: gguf.F32},
	{Name: "F16", FileType: 1, Type: gguf.F16},
	{Name: "BF16", FileType: 32, Type: gguf.BF16},
	{Name: "Q4_0", FileType: 2, Type: gguf.Q4_0, rules: map[role][]rule{
		ffnDown: {{all(withImportance, firstEighth), gguf.Q4_1}},
	}},
	{Name: "Q4_1", FileType: 3, Type: gguf.Q4_1},
	{Name: "Q5_0", FileType: 8, Type: gguf.Q5_0, rules: map[role][]rule{
		ffnDown: {{all(withImportance, firstEighth), gguf.Q5_1}},
	}},
	{Name: "Q5_1", FileType: 9, Type: gguf.Q5_1},
	{Name: "Q8_0", FileType: 7, Type: gguf.Q8_0},
	{Name: "Q2_K", FileType: 10, Type: gguf.Q2_K, rules: map[role][]rule{
		attnV:      {{groupedQuery, gguf.Q4_K}, {nil, gguf.Q3_K}},
		ffnDown:    {{nil, gguf.Q3_K}},
		attnOutput: eightExpertsOutput(rule{notFalcon, gguf.Q3_K}),
	}},
	{Name: "Q2_K_S", FileType: 21, Type: gguf.Q2_K, needsQ2: true, rules: map[role][]rule{
		attnV:   {{groupedQuery, gguf.Q4_K}},
		ffnDown: {{firstEighth, gguf.Q4_K}},
	}},
	{Name: "Q3_K_S", FileType: 11, Type: gguf.Q3_K, rules: map[role][]rule{
		attnOutput: eightExpertsOutput(),
	}},
	{Name: "Q3_K_M", FileType: 12, Type: gguf.Q3_K, rules: map[role][]rule{
		attnV:      {{firstTwo, gguf.Q5_K}, {nil, gguf.Q4_K}},
		ffnDown:    {{firstSixteenth, gguf.Q5_K}, {either(notFalcon, moreBits), gguf.Q4_K}},
		attnOutput: eightExpertsOutput(rule{notFalcon, gguf.Q4_K}),
	}},
	{Name: "Q3_K_L", FileType: 13, Type: gguf.Q3_K, rules: map[role][]rule{
		attnV:      {{nil, gguf.Q5_K}},
		ffnDown:    {{falcon, gguf.Q4_K}, {nil, gguf.Q5_K}},
		attnOutput: {{falcon, gguf.Q4_K}, {eightExperts, gguf.Q3_K}, {nil, gguf.Q5_K}},
	}},
	{Name: "Q4_K_S", FileType: 14, Type: gguf.Q4_K, rules: map[role][]rule{
		attnV:      {{firstFour, gguf.Q5_K}},
		ffnDown:    {{all(notFalcon, firstEighth), gguf.Q5_K}},
		attnOutput: eightExpertsOutput(),
	}},
	{Name: "Q4_K_M", FileType: 15, Type: gguf.Q4_K, rules: map[role][]rule{
		attnV: {{moreBits, gguf.Q6_K}},
		ffnDown: {
			{all(falcon, firstSixteenth), gguf.Q6_K},
			{all(falcon, moreBits), gguf.Q5_K},
			{all(notFalcon, moreBits), gguf.Q6_K},
		},
		attnOutput: eightExpertsOutput(),
	}},
	{Name: "Q5_K_S", FileType: 16, Type: gguf.Q5_K},
	{Name: "Q5_K_M", FileType: 17, Type: gguf.Q5_K, rules: map[role][]rule{
		attnV:   {{moreBits, gguf.Q6_K}},
		ffnDown: {{moreBits, gguf.Q6_K}},
	}},
	{Name: "Q6_K", FileType: 18, Type: gguf.Q6_K},
	{Name: "IQ1_S", FileType: 24, Type: gguf.IQ1_S, embedding: gguf.Q2_K, lowOutput: true, lowBit: true,
		rules: lowBitRules(gguf.Q2_K, gguf.IQ2_XXS)},
	{Name: "IQ1_M", FileType: 31, Type: gguf.IQ1_M, embedding: gguf.Q2_K, lowOutput: true, lowBit: true,
		rules: lowBitRules(gguf.Q2_K, gguf.IQ2_XXS)},
	{Name: "IQ2_XXS", FileType: 19, Type: gguf.IQ2_XXS, embedding: gguf.Q2_K, lowOutput: true, lowBit: true,
		rules: lowBitRules(gguf.Q2_K, 0)},
	{Name: "IQ2_XS", FileType: 20, Type: gguf.IQ2_XS, embedding: gguf.Q2_K, lowOutput: true, lowBit: true,
		rules: lowBitRules(gguf.Q2_K, 0)},
	{Name: "IQ2_S", FileType: 28, Type: gguf.IQ2_XS, embedding: gguf.IQ3_S, lowOutput: true, lowBit: true,
		rules: lowBitRules(gguf.IQ3_S, gguf.IQ3_S)},
	{Name: "IQ2_M", FileType: 29, Type: gguf.IQ2_S, embedding: gguf.IQ3_S, lowOutput: true, lowBit: true,
		rules: lowBitRules(gguf.IQ3_S, gguf.IQ3_S)},
	{Name: "IQ3_XXS", FileType: 23, Type: gguf.IQ3_XXS, embedding: gguf.IQ3_S, lowOutput: true, rules: map[role][]rule{
		attnV:      {{groupedQuery, gguf.Q4_K}, {noImportance, gguf.IQ3_S}},
		attnK:      {{nil, gguf.IQ2_S}},
		attnQ:      {{nil, gguf.IQ2_S}},
		ffnDown:    {{all(noImportance, firstEighth), gguf.Q4_K}, {noImportance, gguf.Q3_K}},
		attnOutput: eightExpertsOutput(rule{notFalcon, gguf.IQ3_S}),
	}},
	{Name: "IQ3_XS", FileType: 22, Type: gguf.IQ3_S, rules: map[role][]rule{
		attnV:      {{groupedQuery, gguf.Q4_K}},
		attnK:      {{nil, gguf.IQ3_XXS}},
		attnQ:      {{nil, gguf.IQ3_XXS}},
		attnOutput: eightExpertsOutput(),
		ffnGate:    {{middle, gguf.IQ3_XXS}},
		ffnUp:      {{middle, gguf.IQ3_XXS}},
	}},
	{Name: "IQ3_S", FileType: 26, Type: gguf.IQ3_S, rules: map[role][]rule{
		attnV:      {{groupedQuery, gguf.Q4_K}},
		attnOutput: eightExpertsOutput(),
	}},
	{Name: "IQ3_M", FileType: 27, Type: gguf.IQ3_S, rules: map[role][]rule{
		attnV:      {{nil, gguf.Q4_K}},
		ffnDown:    {{firstEighth, gguf.Q4_K}, {all(eightExperts, moreBits), gguf.Q4_K}},
		attnOutput: eightExpertsOutput(rule{notFalcon, gguf.Q4_K}),
	}},
	{Name: "IQ4_NL", FileType: 25, Type: gguf.IQ4_NL, rules: map[role][]rule{
		attnV:      {{groupedQuery, gguf.Q5_K}},
		ffnDown:    {{all(noImportance, firstEighth), gguf.Q5_K}},
		attnOutput: eightExpertsOutput(),
	}},
	{Name: "IQ4_XS", FileType: 30, Type: gguf.IQ4_XS, rules: map[role][]rule{
		attnV:      {{groupedQuery, gguf.Q5_K}},
		ffnDown:    {{all(noImportance, firstEighth), gguf.Q5_K}},
		attnOutput: eightExpertsOutput(),
	}},
	{Name: "TQ1_0", FileType: 36, Type: gguf.TQ1_0, embedding: gguf.Q4_K},
	{Name: "TQ2_0", FileType: 37, Type: gguf.TQ2_0, embedding: gguf.Q4_K},
	{Name: "MXFP4_MOE", FileType: 38, Type: gguf.MXFP4, expertsFP4: true},
	{Name: "NVFP4", FileType: 39, Type: gguf.NVFP4},
	{Name: "Q1_0", FileType: 40, Type: gguf.Q1_0},
	{Name: "Q2_0", FileType: 41, Type: gguf.Q2_0, embedding: gguf.Q4_K},
}

// aliases are llama-quantize's short names.
var aliases = map[string]string{"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

// LookupPreset returns the preset of that name; case does not matter.
func LookupPreset(name string) (Preset, bool) {
	name = strings.ToUpper(name)
	if full, ok := aliases[name]; ok {
		name = full
	}
	for _, p := range presets {
		if p.Name == name {
			return p, true
		}
	}
	return Preset{}, false
}

// PresetNames returns the names of all presets in the order of the table.
func PresetNames() []string {
	names := make([]string, len(presets))
	for i, p := range presets {
		names[i] = p.Name
	}
	return names
}
