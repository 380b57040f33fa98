package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// Kinds of metadata values, short for the table.
const (
	u32     = gguf.Uint32
	f32     = gguf.Float32
	boolean = gguf.Bool
	str     = gguf.String
)

// A setting is the value of a named field of the config, so that errors can
// name it.
type setting struct {
	field string
	value any
}

// field is a config field that must be there; of several the first that is.
func field(names ...string) Value {
	return func(m *Model) (any, error) {
		v, name, ok := m.Config.Raw(names...)
		if !ok {
			return nil, missing(names...)
		}
		return setting{name, v}, nil
	}
}

// maybe is a config field that a model may lack; the file then lacks the key.
func maybe(names ...string) Value {
	return func(m *Model) (any, error) {
		v, name, ok := m.Config.Raw(names...)
		if !ok {
			return nil, nil
		}
		return setting{name, v}, nil
	}
}

// fieldOr is a config field that has the value otherwise where a config does
// not set it: the default that its transformers class documents.
func fieldOr(otherwise any, names ...string) Value {
	return func(m *Model) (any, error) {
		if v, name, ok := m.Config.Raw(names...); ok {
			return setting{name, v}, nil
		}
		return otherwise, nil
	}
}

// fixed is the same for every model of the architecture.
func fixed(v any) Value { return func(*Model) (any, error) { return v, nil } }

// size is a dimension expression.
func size(expr string) Value {
	return func(m *Model) (any, error) { return wrapInt(m.eval(expr, -1)) }
}

// when is a value for the models that a condition holds for.
func when(cond func(m *Model) (bool, error), v Value) Value {
	return func(m *Model) (any, error) {
		if ok, err := cond(m); err != nil || !ok {
			return nil, err
		}
		return v(m)
	}
}

// has holds where one of the config fields is set.
func has(names ...string) func(m *Model) (bool, error) {
	return func(m *Model) (bool, error) { return m.Config.Has(names...), nil }
}

// isTrue holds where the config field is true.
func isTrue(name string) func(m *Model) (bool, error) {
	return func(m *Model) (bool, error) { return m.Config.Bool(name) }
}

func wrapInt(n int64, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return n, nil
}

// keyName returns the full name of a key.
func (m *Model) keyName(name string) string {
	for _, global := range []string{"general.", "tokenizer."} {
		if strings.HasPrefix(name, global) {
			return name
		}
	}
	return m.arch.Name + "." + name
}

// metadata evaluates keys. A key that comes twice keeps its place and takes
// the later value.
func (m *Model) metadata(list []Key) (gguf.Metadata, error) {
	var md gguf.Metadata
	for _, k := range list {
		v, err := k.Value(m)
		from, named := v.(setting)
		if named {
			v = from.value
		}
		if err == nil && v != nil {
			v, err = convertValue(k.Kind, v)
		}
		if err == nil {
			err = checkLimit(k.Name, v)
		}
		if err != nil && named {
			err = fmt.Errorf("config.json: %s: %w", from.field, err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.keyName(k.Name), err)
		}
		if v != nil {
			md.Set(m.keyName(k.Name), v)
		}
	}
	return md, nil
}

// limits are the least and the greatest value of keys that llama.cpp computes
// with; a config beyond them is damaged.
var limits = map[string][2]float64{
	"context_length":                   {1, math.MaxInt32},
	"attention.head_count":             {1, 1 << 20},
	"attention.layer_norm_epsilon":     {0, 1},
	"attention.layer_norm_rms_epsilon": {0, 1},
	"expert_used_count":                {1, 1 << 20},
	"expert_group_count":               {1, 1 << 20},
	"expert_group_used_count":          {1, 1 << 20},
	"rope.freq_base":                   {1, math.MaxFloat32},
	"rope.freq_base_swa":               {1, math.MaxFloat32},
	"rope.scaling.factor":              {1e-6, 1e9},

	"rope.scaling.original_context_length": {1, math.MaxInt32},
}

// checkLimit holds a single number against the limits of its key.
func checkLimit(key string, v any) error {
	limit, ok := limits[key]
	if !ok {
		return nil
	}
	var n float64
	switch v := v.(type) {
	case uint32:
		n = float64(v)
	case float32:
		n = float64(v)
	default:
		return nil
	}
	if n < limit[0] || n > limit[1] {
		return fmt.Errorf("%v is out of range", v)
	}
	return nil
}

// convertValue gives a config value its GGUF type; a list becomes an array,
// whose whole numbers upstream writes as int32.
func convertValue(kind gguf.ValueType, v any) (any, error) {
	switch list := v.(type) {
	case []any:
		return convertList(kind, list)
	case []int64:
		return convertList(kind, anys(list))
	case []string:
		return slices.Clone(list), nil
	case []float64:
		return convertList(kind, anys(list))
	case []bool:
		return slices.Clone(list), nil
	}
	return convertScalar(kind, v)
}

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

func convertList(kind gguf.ValueType, list []any) (any, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("want a value, got an empty list")
	}
	switch kind {
	case u32, gguf.Int32:
		out := make([]int32, len(list))
		for i, e := range list {
			v, err := convertScalar(gguf.Int32, e)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i, err)
			}
			out[i] = v.(int32)
		}
		return out, nil
	case f32:
		out := make([]float32, len(list))
		for i, e := range list {
			v, err := convertScalar(f32, e)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i, err)
			}
			out[i] = v.(float32)
		}
		return out, nil
	case boolean:
		out := make([]bool, len(list))
		for i, e := range list {
			b, ok := e.(bool)
			if !ok {
				return nil, fmt.Errorf("entry %d: want true or false, got %v", i, e)
			}
			out[i] = b
		}
		return out, nil
	}
	return nil, fmt.Errorf("a list cannot be a value of type %d", kind)
}

func convertScalar(kind gguf.ValueType, v any) (any, error) {
	switch kind {
	case boolean:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		return nil, fmt.Errorf("want true or false, got %v", v)
	case str:
		if s, ok := v.(string); ok {
			return s, nil
		}
		return nil, fmt.Errorf("want a string, got %v", v)
	case f32:
		f, err := asFloat(v)
		if err != nil {
			return nil, err
		}
		if f32v := float32(f); !math.IsInf(float64(f32v), 0) && !math.IsNaN(f) {
			return f32v, nil
		}
		return nil, fmt.Errorf("%v does not fit a 32-bit float", v)
	case u32, gguf.Int32:
		n, err := asInt(v)
		if err != nil {
			return nil, err
		}
		if kind == u32 && (n < 0 || n > math.MaxUint32) || kind == gguf.Int32 && (n < math.MinInt32 || n > math.MaxInt32) {
			return nil, fmt.Errorf("%d is out of range", n)
		}
		if kind == u32 {
			return uint32(n), nil
		}
		return int32(n), nil
	}
	return nil, fmt.Errorf("no conversion to type %d", kind)
}

func asFloat(v any) (float64, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case int64:
		return float64(v), nil
	case int:
		return float64(v), nil
	}
	return toFloat(v)
}

func asInt(v any) (int64, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case int:
		return int64(v), nil
	case bool:
		return 0, fmt.Errorf("want a whole number, got %v", v)
	case json.Number:
		return toInt(v)
	}
	return toInt(v)
}

// modelKeys are the keys that upstream's TextModel gives a model, in its order
// (conversion/base.py, TextModel.set_gguf_parameters). llama.cpp cannot load a
// file without the first ones, so that a config must have these fields.
var modelKeys = []Key{
	{"block_count", u32, size("layers")},
	{"context_length", u32, field("max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length")},
	{"embedding_length", u32, size("hidden")},
	{"feed_forward_length", u32, size("ff")},
	{"attention.head_count", u32, field("num_attention_heads", "n_head", "n_heads")},
	{"attention.head_count_kv", u32, maybe("num_key_value_heads", "n_kv_heads")},
	{"attention.causal", boolean, notCausal},
	{"rope.scaling.type", str, ropeScalingType},
	{"rope.scaling.factor", f32, ropeScaling("factor", "linear", "yarn")},
	{"rope.scaling.original_context_length", u32, yarnOriginalLength},
	{"rope.scaling.yarn_ext_factor", f32, ropeScaling("extrapolation_factor", "yarn")},
	{"rope.scaling.yarn_attn_factor", f32, yarnAttentionFactor},
	{"rope.scaling.yarn_beta_fast", f32, ropeScaling("beta_fast", "yarn")},
	{"rope.scaling.yarn_beta_slow", f32, ropeScaling("beta_slow", "yarn")},
	{"rope.dimension_sections", u32, mropeSections},
	{"rope.freq_base", f32, ropeFreqBase},
	{"rope.freq_base_swa", f32, ropeFreqBaseSliding},
	{"attention.layer_norm_rms_epsilon", f32, maybe("rms_norm_eps", "norm_eps")},
	{"attention.layer_norm_epsilon", f32, maybe("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")},
	{"expert_count", u32, maybe("num_local_experts", "num_experts", "n_routed_experts")},
	{"expert_used_count", u32, maybe("num_experts_per_tok", "num_experts_per_token", "top_k_experts")},
	{"expert_group_count", u32, maybe("n_group")},
	{"expert_group_used_count", u32, maybe("topk_group")},
	{"expert_gating_func", u32, expertGating},
	{"attention.key_length", u32, maybe("head_dim")},
	{"attention.value_length", u32, maybe("head_dim")},
}

// decoderKeys are those of models with RMS norms and rotary positions,
// layerNormKeys of models with LayerNorms, and moeKeys come with experts.
var (
	decoderKeys = keys(modelKeys, []Key{
		{"rope.freq_base", f32, needFreqBase},
		{"attention.layer_norm_rms_epsilon", f32, field("rms_norm_eps", "norm_eps")},
	})
	layerNormKeys = keys(modelKeys, []Key{
		{"attention.layer_norm_epsilon", f32, field("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")},
	})
	moeKeys = []Key{
		{"expert_count", u32, size("experts")},
		{"expert_used_count", u32, field("num_experts_per_tok", "num_experts_per_token", "top_k_experts")},
	}
)

// keys joins key lists; of a name that comes twice the later value counts.
func keys(lists ...[]Key) []Key { return slices.Concat(lists...) }

// notCausal is attention.causal, which only models that are not causal have.
func notCausal(m *Model) (any, error) {
	if v, _, ok := m.Config.Raw("is_causal"); ok && v == false {
		return false, nil
	}
	return nil, nil
}

// ropeScalingType names the scaling that ggml computes by itself; others come
// as factor tensors.
func ropeScalingType(m *Model) (any, error) {
	switch kind := m.rope.kind(); kind {
	case "linear", "yarn":
		if m.rope.Full["factor"] != nil {
			return kind, nil
		}
	case "su", "longrope":
		return "longrope", nil
	}
	return nil, nil
}

// ropeScaling is a number of the scaling's settings where the scaling is of
// one of the kinds and has a factor.
func ropeScaling(name string, kinds ...string) Value {
	return func(m *Model) (any, error) {
		if !slices.Contains(kinds, m.rope.kind()) || m.rope.Full["factor"] == nil {
			return nil, nil
		}
		return m.rope.Full[name], nil
	}
}

// yarnOriginalLength is the context length before scaling, which YaRN cannot
// do without; transformers takes the model's own where it is not given.
func yarnOriginalLength(m *Model) (any, error) {
	if m.rope.kind() != "yarn" || m.rope.Full["factor"] == nil {
		return nil, nil
	}
	if v := m.rope.Full[originalLength]; v != nil {
		return v, nil
	}
	return wrapInt(m.Config.Int("max_position_embeddings"))
}

func yarnAttentionFactor(m *Model) (any, error) {
	for _, name := range []string{"attention_factor", "attn_factor"} {
		if v, err := ropeScaling(name, "yarn")(m); v != nil || err != nil {
			return v, err
		}
	}
	return nil, nil
}

// mropeSections are the dimensions per axis of multimodal rotary embeddings:
// always four.
func mropeSections(m *Model) (any, error) {
	list, ok := m.rope.All["mrope_section"].([]any)
	if !ok {
		return nil, nil
	}
	sections := slices.Clone(list)
	for len(sections) < 4 {
		sections = append(sections, int64(0))
	}
	return sections[:4], nil
}

func ropeFreqBase(m *Model) (any, error) {
	if v := m.rope.Full["rope_theta"]; v != nil {
		return setting{"rope_theta", v}, nil
	}
	return nil, nil
}

// needFreqBase is ropeFreqBase of a config that must have it.
func needFreqBase(m *Model) (any, error) {
	if v, err := ropeFreqBase(m); v != nil || err != nil {
		return v, err
	}
	return nil, missing("rope_theta")
}

// otherFreqBase is the base where it is not the one that llama.cpp takes for
// models whose files do not say; upstream leaves it out of some families' files.
func otherFreqBase(m *Model) (any, error) {
	base, ok, err := m.rope.number("rope_theta")
	if !ok || err != nil || base == 1e4 {
		return nil, err
	}
	return ropeFreqBase(m)
}

func ropeFreqBaseSliding(m *Model) (any, error) { return m.rope.Sliding["rope_theta"], nil }

// expertGating is llama.cpp's number of the router's activation.
func expertGating(m *Model) (any, error) {
	v, name, ok := m.Config.Raw("score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func", "expert_selection_fn")
	if !ok {
		return nil, nil
	}
	switch v {
	case "softmax":
		return int64(1), nil
	case "sigmoid":
		return int64(2), nil
	case "sqrtsoftplus":
		return int64(4), nil
	}
	return nil, fmt.Errorf("config.json: %s: want softmax, sigmoid or sqrtsoftplus, got %v", name, v)
}

// rotaryDims is the number of dimensions that are rotated: the config's share
// of a head's, rounded down. otherwise is the share where the config gives
// none; 0 says that it must.
func rotaryDims(head string, otherwise float64) Value {
	return func(m *Model) (any, error) {
		n, err := m.eval(head, -1)
		if err != nil {
			return nil, err
		}
		share, ok, err := m.rope.number("partial_rotary_factor")
		switch {
		case err != nil:
			return nil, err
		case !ok && otherwise == 0:
			return nil, missing(partialRotary...)
		case !ok:
			share = otherwise
		case share <= 0 || share > 1:
			return nil, fmt.Errorf("config.json: partial_rotary_factor: want more than 0 and at most 1, got %g", share)
		}
		return int64(share * float64(n)), nil
	}
}

// slidingLayers is one bool per block: whether it has a window. It is nil
// where the config does not list the blocks' types.
func slidingLayers(m *Model) (any, error) {
	types, err := m.layerTypes()
	if types == nil || err != nil {
		return nil, err
	}
	sliding := make([]bool, len(types))
	for i, t := range types {
		sliding[i] = t == "sliding_attention"
	}
	return sliding, nil
}

// layerTypes is the config's list of block types; it has one entry per block.
func (m *Model) layerTypes() ([]string, error) {
	types, err := m.Config.Texts("layer_types")
	if types == nil || err != nil {
		return nil, err
	}
	layers, err := m.Config.Int("num_hidden_layers")
	if err != nil {
		return nil, err
	}
	if int64(len(types)) != layers {
		return nil, fmt.Errorf("config.json: layer_types: %d entries: num_hidden_layers is %d", len(types), layers)
	}
	return types, nil
}

// poolingType is how the embeddings of a sentence-transformers model become
// one: llama.cpp's number (1 mean, 2 first token, 3 last token), from the
// folder that modules.json names.
func poolingType(m *Model) (any, error) {
	data, err := readFile(m.source, "modules.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var modules []struct{ Type, Path string }
	if err := json.Unmarshal(data, &modules); err != nil {
		return nil, fmt.Errorf("parse modules.json: %w", err)
	}
	for _, module := range modules {
		if !strings.HasSuffix(module.Type, "Pooling") {
			continue
		}
		name := path.Join(module.Path, "config.json")
		data, err := readFile(m.source, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		var pooling struct {
			Mean  bool   `json:"pooling_mode_mean_tokens"`
			First bool   `json:"pooling_mode_cls_token"`
			Last  bool   `json:"pooling_mode_lasttoken"`
			Mode  string `json:"pooling_mode"`
		}
		if err := json.Unmarshal(data, &pooling); err != nil {
			return nil, fmt.Errorf("parse %s: %w", name, err)
		}
		switch {
		case pooling.Mean || !pooling.First && !pooling.Last && pooling.Mode == "mean":
			return int64(1), nil
		case pooling.First || !pooling.Last && pooling.Mode == "cls":
			return int64(2), nil
		case pooling.Last || pooling.Mode == "lasttoken":
			return int64(3), nil
		}
		return nil, fmt.Errorf("%s: want mean, cls or last-token pooling", name)
	}
	return nil, nil
}

// nonzero is a number that counts only where it is not zero.
func nonzero(name string) Value {
	return func(m *Model) (any, error) {
		f, err := m.Config.Float(name)
		if isMissing(err) || err == nil && f == 0 {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return maybe(name)(m)
	}
}

// without leaves out keys by name.
func without(list []Key, names ...string) []Key {
	return slices.DeleteFunc(slices.Clone(list), func(k Key) bool { return slices.Contains(names, k.Name) })
}
