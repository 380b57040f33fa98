package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// A packing is one way in which checkpoints store quantized weights: which
// tensors belong together, and which matrix they stand for. A weight is named
// by the tensor that only quantized weights have; the others are found beside
// it. Values are computed in float32 with one rounding for each operation.
type packing struct {
	method string   // quantization_config.quant_method
	format []string // its "format", where the method has several; nil is any

	key    string   // suffix of the tensor by which a weight is found
	weight string   // suffix of the weight that replaces it
	need   []string // suffixes of the other tensors it is made of
	may    []string // suffixes of those that may be missing
	unused []string // suffixes of tensors about activations and caches

	// make builds the weight from its tensors, by suffix. A stacked tensor
	// has more than two dimensions.
	make func(q quantization, parts map[string]Leaf) (m Matrix, shape []int64, dtype string, err error)
}

// quantization is the quantization_config of a checkpoint.
type quantization struct {
	method, format string
	fields         map[string]any
	weights        map[string]any // of compressed-tensors: its one group's "weights"
}

// packings is every way that can be read. Several rows of one method are for
// weights under different names.
var packings = []packing{
	// DeepSeek-V3's 128x128 blocks, and one scale for a tensor (conversion/base.py, dequant_simple).
	{method: "fp8", key: "_scale_inv", need: []string{""}, unused: unusedFP8, make: scaledWeight("", "_scale_inv")},
	{method: "fp8", key: ".weight_scale", weight: ".weight", need: []string{".weight"}, unused: unusedFP8, make: scaledWeight(".weight", ".weight_scale")},
	// Mistral's own names.
	{method: "fp8", key: ".qscale_weight", weight: ".weight", need: []string{".weight"}, unused: unusedFP8, make: scaledWeight(".weight", ".qscale_weight")},
	{method: "fbgemm_fp8", key: ".weight_scale", weight: ".weight", need: []string{".weight"}, unused: []string{".input_scale_ub"}, make: scaledWeight(".weight", ".weight_scale")},
	{method: "modelopt", key: ".weight_scale", weight: ".weight", need: []string{".weight"}, unused: unusedFP8, make: modelopt},
	{method: "compressed-tensors", format: []string{"float-quantized", "int-quantized", "naive-quantized"},
		key: ".weight_scale", weight: ".weight", need: []string{".weight"}, may: []string{".weight_zero_point"}, unused: unusedCompressed,
		make: scaledWeight(".weight", ".weight_scale")},
	{method: "compressed-tensors", format: []string{"pack-quantized"},
		key: ".weight_packed", weight: ".weight", need: []string{".weight_scale"}, may: []string{".weight_zero_point", ".weight_shape", ".weight_g_idx"}, unused: unusedCompressed,
		make: packedWeight},
	{method: "gptq", key: ".qweight", weight: ".weight", need: []string{".qzeros", ".scales"}, may: []string{".g_idx"}, make: gptq},
	{method: "awq", key: ".qweight", weight: ".weight", need: []string{".qzeros", ".scales"}, make: awq},
	{method: "bitnet", key: ".weight_scale", weight: ".weight", need: []string{".weight"}, make: bitnet},
	{method: "mxfp4", key: "_blocks", need: []string{"_scales"}, make: mxfp4Weight},
}

var (
	unusedFP8        = []string{".activation_scale", "_activation_scale", ".qscale_act", ".input_scale", ".k_scale", ".v_scale"}
	unusedCompressed = []string{".input_scale", ".input_zero_point", ".input_global_scale", ".k_scale", ".v_scale"}
)

// dequantize returns the tensors that stored ones stand for.
func dequantize(stored []Leaf, q quantization) ([]Tensor, error) {
	rows, err := q.packings()
	if err != nil {
		return nil, fmt.Errorf("config.json: quantization_config: %w", err)
	}
	byName := make(map[string]Leaf, len(stored))
	for _, l := range stored {
		byName[l.Name] = l
	}
	used := map[string]bool{}
	made := map[string]Tensor{} // by the name of the key tensor
	for _, l := range stored {
		for _, row := range rows {
			if slices.ContainsFunc(row.unused, func(s string) bool { return strings.HasSuffix(l.Name, s) }) {
				used[l.Name] = true
				break
			}
			base, ok := strings.CutSuffix(l.Name, row.key)
			if !ok {
				continue
			}
			t, names, err := row.claim(q, base, byName)
			if err != nil {
				return nil, fmt.Errorf("tensor %s: %w", l.Name, err)
			}
			made[l.Name] = t
			for _, name := range names {
				used[name] = true
			}
			break
		}
	}
	var tensors []Tensor
	for _, l := range stored {
		switch t, ok := made[l.Name]; {
		case ok:
			tensors = append(tensors, t)
		case !used[l.Name]:
			if q.method != "" && len(l.Shape) > 1 && coded(l.DType) {
				return nil, fmt.Errorf("tensor %s: %s without the scale that %s has: cannot tell its values", l.Name, l.DType, q.method)
			}
			tensors = append(tensors, Tensor{l.Name, l.DType, l.Shape, l})
		}
	}
	return tensors, nil
}

// coded says whether dtype holds codes, or numbers too coarse to stand alone.
func coded(dtype string) bool {
	return strings.HasPrefix(dtype, "F8_") || dtype == "F4" || dtype == "I8" || dtype == "U8" || dtype == "I32"
}

// claim makes the weight of that base name and returns what it is made of.
func (p packing) claim(q quantization, base string, byName map[string]Leaf) (Tensor, []string, error) {
	parts := map[string]Leaf{p.key: byName[base+p.key]}
	names := []string{base + p.key}
	for _, suffix := range p.need {
		l, ok := byName[base+suffix]
		if !ok {
			return Tensor{}, nil, fmt.Errorf("there is no %s beside it", base+suffix)
		}
		parts[suffix], names = l, append(names, l.Name)
	}
	for _, suffix := range p.may {
		if l, ok := byName[base+suffix]; ok {
			parts[suffix], names = l, append(names, l.Name)
		}
	}
	m, shape, dtype, err := p.make(q, parts)
	if err != nil {
		return Tensor{}, nil, err
	}
	if err := Check(m); err != nil {
		return Tensor{}, nil, err
	}
	return Tensor{base + p.weight, dtype, shape, m}, names, nil
}

// readQuantization finds out how a checkpoint is quantized: from its config,
// or from the file that NVIDIA's modelopt puts beside it.
func readQuantization(src fs.FS, config *Config) (quantization, error) {
	v, _, ok := config.Raw("quantization_config", "compression_config")
	if ok {
		q, err := parseQuantization(v)
		if err != nil {
			return q, fmt.Errorf("config.json: quantization_config: %w", err)
		}
		return q, nil
	}
	const beside = "hf_quant_config.json"
	data, err := readFile(src, beside)
	if errors.Is(err, fs.ErrNotExist) {
		return quantization{}, nil
	}
	if err != nil {
		return quantization{}, err
	}
	var file struct {
		Producer struct {
			Name string `json:"name"`
		} `json:"producer"`
		Quantization map[string]any `json:"quantization"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return quantization{}, fmt.Errorf("%s: %w", beside, err)
	}
	return quantization{method: strings.ToLower(file.Producer.Name), fields: file.Quantization}, nil
}

func parseQuantization(v any) (quantization, error) {
	var q quantization
	var ok bool
	if q.fields, ok = v.(map[string]any); !ok {
		return q, fmt.Errorf("want an object, got %v", v)
	}
	q.method, _ = q.fields["quant_method"].(string)
	q.format, _ = q.fields["format"].(string)
	if q.method == "" {
		return q, fmt.Errorf("no quant_method: cannot tell how the weights are stored")
	}
	q.method = strings.ReplaceAll(strings.ToLower(q.method), "compressed_tensors", "compressed-tensors")
	if q.method != "compressed-tensors" {
		return q, nil
	}
	groups, _ := q.fields["config_groups"].(map[string]any)
	if len(groups) != 1 {
		return q, fmt.Errorf("%d config_groups: only checkpoints with one can be read", len(groups))
	}
	for name, g := range groups {
		group, _ := g.(map[string]any)
		if q.weights, ok = group["weights"].(map[string]any); !ok {
			return q, fmt.Errorf("config_groups: %s: no weights", name)
		}
		if f, ok := group["format"].(string); ok && (q.format == "" || q.format == "mixed-precision") {
			q.format = f
		}
	}
	return q, nil
}

// packings returns the rows for a checkpoint; none where it is not quantized.
func (q quantization) packings() ([]packing, error) {
	if q.method == "" {
		return nil, nil
	}
	var rows []packing
	var known []string
	for _, p := range packings {
		if !slices.Contains(known, p.method) {
			known = append(known, p.method)
		}
		if p.method == q.method && (p.format == nil || slices.Contains(p.format, q.format)) {
			rows = append(rows, p)
		}
	}
	if rows != nil {
		return rows, nil
	}
	if slices.Contains(known, q.method) {
		return nil, fmt.Errorf("format %q of %s is not supported: convert the checkpoint that it was made from", q.format, q.method)
	}
	return nil, fmt.Errorf("quant_method %q is not supported (known are %s): convert the checkpoint that it was made from", q.method, strings.Join(known, ", "))
}

// number returns a field that must be a whole number.
func number(fields map[string]any, name string) (int64, error) {
	v := fields[name]
	if v == nil {
		return 0, fmt.Errorf("quantization_config: no %s", name)
	}
	n, err := toInt(v)
	if err != nil {
		return 0, fmt.Errorf("quantization_config: %s: %w", name, err)
	}
	return n, nil
}

// block returns the height and width of the blocks that share a scale, from a
// list or as "128x128"; zeros where the config names none.
func (q quantization) block() (rows, cols int64, err error) {
	v := q.fields["weight_block_size"]
	if q.weights != nil {
		v = q.weights["block_structure"]
	}
	var size []int64
	switch v := v.(type) {
	case nil:
		return 0, 0, nil
	case string:
		var r, c int64
		if n, _ := fmt.Sscanf(v, "%dx%d", &r, &c); n == 2 {
			size = []int64{r, c}
		}
	case []any:
		for _, x := range v {
			n, err := toInt(x)
			if err != nil {
				return 0, 0, fmt.Errorf("quantization_config: blocks of %v: %w", v, err)
			}
			size = append(size, n)
		}
	}
	if len(size) != 2 || size[0] < 1 || size[1] < 1 {
		return 0, 0, fmt.Errorf("quantization_config: blocks of %v: want their height and width", v)
	}
	return size[0], size[1], nil
}

// scaledWeight is codes that are numbers themselves, float8 or int8, each
// times the scale of its tensor, row, group or block.
func scaledWeight(codes, scale string) func(quantization, map[string]Leaf) (Matrix, []int64, string, error) {
	return func(q quantization, parts map[string]Leaf) (Matrix, []int64, string, error) {
		w, s := parts[codes], parts[scale]
		if !strings.HasPrefix(w.DType, "F8_") && w.DType != "I8" {
			return nil, nil, "", fmt.Errorf("%s is %s: want float8 or int8 beside a scale", w.Name, w.DType)
		}
		m, err := q.scale(w, s)
		if err != nil {
			return nil, nil, "", err
		}
		if z, ok := parts[".weight_zero_point"]; ok {
			zr, zc := m.Scale.Dims()
			if product(z.Shape) != zr*zc {
				return nil, nil, "", fmt.Errorf("%s has %v zero points for %v scales", z.Name, z.Shape, s.Shape)
			}
			m.Zero = Reshape{z, zc}
		}
		return m, w.Shape, "F32", nil
	}
}

// scale finds out how the scales of s lie over the weights of w.
func (q quantization) scale(w, s Leaf) (Scaled, error) {
	rows, cols := w.Dims()
	dims := len(w.Shape)
	n := product(s.Shape)
	switch {
	case n == 1:
		return Scaled{Of: w, Scale: Reshape{s, 1}, GroupRows: rows, GroupCols: cols}, nil
	case dims >= 2 && n == rows && (len(s.Shape) == 1 || s.Shape[len(s.Shape)-1] == 1 || slices.Equal(s.Shape, w.Shape[:dims-1])): // for each row
		return Scaled{Of: w, Scale: Reshape{s, 1}, GroupRows: 1, GroupCols: cols}, nil
	case dims >= 3 && n == product(w.Shape[:dims-2]) && len(s.Shape) >= dims-2 && slices.Equal(s.Shape[:dims-2], w.Shape[:dims-2]): // for each of a stack
		return Scaled{Of: w, Scale: Reshape{s, 1}, GroupRows: w.Shape[dims-2], GroupCols: cols}, nil
	}
	high, wide, err := q.block()
	if err != nil {
		return Scaled{}, err
	}
	if high == 0 { // groups along the rows
		if len(s.Shape) == dims && slices.Equal(s.Shape[:dims-1], w.Shape[:dims-1]) && s.Shape[dims-1] > 0 && cols%s.Shape[dims-1] == 0 {
			return Scaled{Of: w, Scale: s, GroupRows: 1, GroupCols: cols / s.Shape[dims-1]}, nil
		}
		return Scaled{}, fmt.Errorf("scales %v for weights %v: the config names no block size", s.Shape, w.Shape)
	}
	if dims < 2 || len(s.Shape) != dims || !slices.Equal(s.Shape[:dims-2], w.Shape[:dims-2]) ||
		s.Shape[dims-2] != ceilDiv(w.Shape[dims-2], high) || s.Shape[dims-1] != ceilDiv(cols, wide) {
		return Scaled{}, fmt.Errorf("scales %v for weights %v: want one for each block of %d x %d", s.Shape, w.Shape, high, wide)
	}
	if dims > 2 && w.Shape[dims-2]%high != 0 {
		return Scaled{}, fmt.Errorf("stacked weights %v are not whole blocks of %d rows", w.Shape, high)
	}
	return Scaled{Of: w, Scale: s, GroupRows: high, GroupCols: wide}, nil
}

// modelopt is NVIDIA's float8; its NVFP4 is another packing.
func modelopt(q quantization, parts map[string]Leaf) (Matrix, []int64, string, error) {
	if w := parts[".weight"]; !strings.HasPrefix(w.DType, "F8_") {
		return nil, nil, "", fmt.Errorf("%s is %s: only modelopt's FP8 can be read (quant_algo %v)", w.Name, w.DType, q.fields["quant_algo"])
	}
	return scaledWeight(".weight", ".weight_scale")(q, parts)
}

// inOrder is the order of slots whose values follow each other.
func inOrder(n int64) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

// slotsOf returns how many values of that many bits an integer of l holds.
func slotsOf(l Leaf, bits int64) (int64, error) {
	u, err := unitOf(l.DType)
	if err != nil || !isInteger(l.DType) || bits < 1 || bits > 8 || u.bytes*8%bits != 0 {
		return 0, fmt.Errorf("%s: %s cannot hold values of %d bits", l.Name, l.DType, bits)
	}
	return u.bytes * 8 / bits, nil
}

// packedWeight is compressed-tensors' pack-quantized: int32s with the values
// of a row from the lowest bits up, zero points packed the same way down the
// columns, both raised by half their range (compressors/pack_quantized).
func packedWeight(q quantization, parts map[string]Leaf) (Matrix, []int64, string, error) {
	w, s := parts[".weight_packed"], parts[".weight_scale"]
	bits, err := number(q.weights, "num_bits")
	if err != nil {
		return nil, nil, "", err
	}
	if kind, _ := q.weights["type"].(string); kind != "" && kind != "int" {
		return nil, nil, "", fmt.Errorf("quantization_config: packed weights of type %q: want int", kind)
	}
	slots, err := slotsOf(w, bits)
	if err != nil {
		return nil, nil, "", err
	}
	if len(w.Shape) != 2 || len(s.Shape) != 2 || s.Shape[0] != w.Shape[0] {
		return nil, nil, "", fmt.Errorf("scales %v for packed weights %v", s.Shape, w.Shape)
	}
	rows, groups := w.Shape[0], s.Shape[1]
	cols := w.Shape[1] * slots
	per := cols
	strategy, _ := q.weights["strategy"].(string)
	switch strategy {
	case "channel":
		if groups != 1 {
			return nil, nil, "", fmt.Errorf("scales %v: want one for each row", s.Shape)
		}
	case "group":
		if per, err = number(q.weights, "group_size"); err != nil {
			return nil, nil, "", err
		}
		if per < 1 || groups > (1<<31)/per {
			return nil, nil, "", fmt.Errorf("%d groups of %d", groups, per)
		}
		cols = groups * per
	default:
		return nil, nil, "", fmt.Errorf("quantization_config: strategy %q of packed weights: want group or channel", strategy)
	}
	codes := Unpack{Of: w, Bits: int(bits), Order: inOrder(slots), Rows: rows, Cols: cols}
	var m Matrix
	scaled := Scaled{Of: codes, Scale: s, GroupRows: 1, GroupCols: per}
	if z, ok := parts[".weight_zero_point"]; ok {
		if z.DType == w.DType {
			scaled.Zero = Unpack{Of: z, Bits: int(bits), Order: inOrder(slots), Down: true, Rows: rows, Cols: groups}
		} else {
			scaled.Of = Affine{codes, 1, -float32(int64(1) << (bits - 1))}
			scaled.Zero = z
		}
	} else {
		scaled.Of = Affine{codes, 1, -float32(int64(1) << (bits - 1))}
	}
	m = scaled
	if idx, ok := parts[".weight_g_idx"]; ok {
		// The columns' groups, not the rows': turned over and back.
		turned := Scaled{Of: Transpose{scaled.Of, 1}, Scale: Transpose{s, 1}, GroupRows: per, GroupCols: 1, Index: idx}
		if scaled.Zero != nil {
			turned.Zero = Transpose{scaled.Zero, 1}
		}
		m = Transpose{turned, 1}
	}
	return m, []int64{rows, cols}, "F32", nil
}

// gptq is weights packed down the input features, one scale and zero point
// for a group of them, which g_idx names where they were reordered. Zero
// points are stored less one, but by checkpoint_format gptq_v2.
func gptq(q quantization, parts map[string]Leaf) (Matrix, []int64, string, error) {
	bits, err := number(q.fields, "bits")
	if err != nil {
		return nil, nil, "", err
	}
	w, z, s := parts[".qweight"], parts[".qzeros"], parts[".scales"]
	slots, err := slotsOf(w, bits)
	if err != nil {
		return nil, nil, "", err
	}
	if len(w.Shape) != 2 || len(z.Shape) != 2 || len(s.Shape) != 2 || s.Shape[1] != w.Shape[1] {
		return nil, nil, "", fmt.Errorf("weights %v, zero points %v, scales %v", w.Shape, z.Shape, s.Shape)
	}
	in, out, groups := w.Shape[0]*slots, w.Shape[1], s.Shape[0]
	var zero Matrix = Unpack{Of: z, Bits: int(bits), Order: inOrder(slots), Rows: groups, Cols: out}
	switch format, _ := q.fields["checkpoint_format"].(string); format {
	case "", "gptq":
		zero = Affine{zero, 1, 1}
	case "gptq_v2":
	default:
		return nil, nil, "", fmt.Errorf("quantization_config: checkpoint_format %q of gptq is not supported", format)
	}
	m := Scaled{
		Of:    Unpack{Of: w, Bits: int(bits), Order: inOrder(slots), Down: true, Rows: in, Cols: out},
		Scale: s, Zero: zero, GroupCols: 1, GroupRows: ceilDiv(in, groups),
	}
	if idx, ok := parts[".g_idx"]; ok {
		m.Index = idx
	} else if err := q.groupSize(in, groups); err != nil {
		return nil, nil, "", err
	}
	return Transpose{m, 1}, []int64{out, in}, "F32", nil
}

// groupSize checks that the config's groups of input features are those of
// the scales.
func (q quantization) groupSize(in, groups int64) error {
	size, err := number(q.fields, "group_size")
	if err != nil {
		return err
	}
	if size == -1 {
		size = in
	}
	if size < 1 || ceilDiv(in, size) != groups || in%size != 0 {
		return fmt.Errorf("%d scales for %d input features in groups of %d", groups, in, size)
	}
	return nil
}

// awq is weights packed along the output features, in the order of AutoAWQ's
// gemm kernels.
func awq(q quantization, parts map[string]Leaf) (Matrix, []int64, string, error) {
	if bits, err := number(q.fields, "bits"); err != nil || bits != 4 {
		return nil, nil, "", fmt.Errorf("quantization_config: awq of %v bits: want 4", q.fields["bits"])
	}
	if version, _ := q.fields["version"].(string); version != "" && !strings.EqualFold(version, "gemm") {
		return nil, nil, "", fmt.Errorf("quantization_config: version %q of awq is not supported: want gemm", version)
	}
	w, z, s := parts[".qweight"], parts[".qzeros"], parts[".scales"]
	if slots, err := slotsOf(w, 4); err != nil || slots != 8 {
		return nil, nil, "", fmt.Errorf("%s is %s: want I32", w.Name, w.DType)
	}
	if len(w.Shape) != 2 || len(z.Shape) != 2 || len(s.Shape) != 2 || s.Shape[1] != w.Shape[1]*8 {
		return nil, nil, "", fmt.Errorf("weights %v, zero points %v, scales %v", w.Shape, z.Shape, s.Shape)
	}
	in, out, groups := w.Shape[0], w.Shape[1]*8, s.Shape[0]
	if err := q.groupSize(in, groups); err != nil {
		return nil, nil, "", err
	}
	order := []int{0, 2, 4, 6, 1, 3, 5, 7}
	m := Scaled{
		Of:    Unpack{Of: w, Bits: 4, Order: order, Rows: in, Cols: out},
		Zero:  Unpack{Of: z, Bits: 4, Order: order, Rows: groups, Cols: out},
		Scale: s, GroupRows: in / groups, GroupCols: 1,
	}
	return Transpose{m, 1}, []int64{out, in}, "F32", nil
}

// bitnet is -1, 0 and 1, four to a byte, of which each holds one row of each
// quarter. BitLinear divides by its scale, AutoBitLinear multiplies
// (transformers, integrations/bitnet.py).
func bitnet(q quantization, parts map[string]Leaf) (Matrix, []int64, string, error) {
	w, s := parts[".weight"], parts[".weight_scale"]
	if w.DType != "U8" || len(w.Shape) != 2 || product(s.Shape) != 1 {
		return nil, nil, "", fmt.Errorf("weights %s %v, scales %v: want packed bytes and one scale", w.DType, w.Shape, s.Shape)
	}
	rows, cols := w.Shape[0]*4, w.Shape[1]
	codes := Unpack{Of: w, Bits: 2, Order: inOrder(4), Down: true, Planes: true, Rows: rows, Cols: cols}
	class, _ := q.fields["linear_class"].(string)
	switch class {
	case "", "bitlinear", "autobitlinear":
	default:
		return nil, nil, "", fmt.Errorf("quantization_config: linear_class %q of bitnet is not supported", class)
	}
	m := Scaled{Of: Affine{codes, 1, -1}, Scale: Reshape{s, 1}, GroupRows: rows, GroupCols: cols, Inverse: class != "autobitlinear"}
	return m, []int64{rows, cols}, "F32", nil
}

// mxfp4Weight is gpt-oss's experts, which ggml stores in the same blocks.
func mxfp4Weight(_ quantization, parts map[string]Leaf) (Matrix, []int64, string, error) {
	b, s := parts["_blocks"], parts["_scales"]
	if len(s.Shape) < 2 {
		return nil, nil, "", fmt.Errorf("scales %v: want one for each block of each row", s.Shape)
	}
	shape := slices.Clone(s.Shape)
	shape[len(shape)-1] *= 32
	return MXFP4{b, s}, shape, "MXFP4", nil
}
