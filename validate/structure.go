package validate

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// StructureResult says whether the file's metadata and tensors state the model
// that the source states.
type StructureResult struct {
	OK           bool     `json:"ok"`
	Architecture string   `json:"architecture"` // general.architecture of the file
	Family       string   `json:"family"`       // what the source calls it
	Tensors      int      `json:"tensors"`      // of the file
	Weights      int      `json:"weights"`      // that the architecture needs or has
	Differences  []string `json:"differences,omitempty"`
	// Notes are where the file or llama.cpp does less than the source, which no
	// conversion can mend.
	Notes []string `json:"notes,omitempty"`
}

// An OtherModelError says that the candidate is not a conversion of the source.
type OtherModelError struct{ Why string }

func (e *OtherModelError) Error() string { return "the candidate is another model: " + e.Why }

// floatTolerance is how far two readers' figures may differ, relatively: GGUF
// holds float32 where config.json is read as float64.
const floatTolerance = 1e-6

// sameModel fails where two specifications cannot be of one model.
func sameModel(source, file *spec.Model) error {
	for _, d := range []struct {
		what string
		a, b int
	}{{"vocabulary", source.Vocab, file.Vocab}, {"width", source.Width, file.Width}, {"number of blocks", len(source.Blocks), len(file.Blocks)}} {
		if d.a != d.b {
			return &OtherModelError{fmt.Sprintf("its %s is %d, the source's %d", d.what, d.b, d.a)}
		}
	}
	if (source.Head == nil) != (file.Head == nil) {
		return &OtherModelError{"one of the two predicts tokens and the other does not"}
	}
	return nil
}

// compareSpecs says in words how two specifications of one model differ in
// what they compute, and notes what is llama.cpp's. m is the file's metadata.
//
// It does not matter what a reader can choose freely: the names of family and
// tensors, in which order the pairs of a rotary embedding are stored (the rows
// of the weights are compared with that order undone), and whether one is added
// to a norm's weight when it is used or when it was stored (the sums are
// compared with the weights).
func compareSpecs(source, file *spec.Model, m gguf.Metadata) (differences, notes []string) {
	c := comparer{limits: limitsOf(m)}
	switch a, b := source.Context, file.Context; {
	case a > 0 && b > a:
		c.differ("context", a, b)
	case b < a:
		c.notes = append(c.notes, fmt.Sprintf("the file states a context of %d positions, the source one of %d", b, a))
	}
	c.compare("embedding", source.Embedding, file.Embedding)
	c.compare("final norm", source.FinalNorm, file.FinalNorm)
	c.compare("head", source.Head, file.Head)
	c.compare("pooling", source.Pooling, file.Pooling)
	c.compare("classifier", source.Classifier, file.Classifier)
	perBlock, noted := make([][]string, len(source.Blocks)), make([][]string, len(source.Blocks))
	for i := range source.Blocks {
		block := comparer{limits: c.limits, context: max(source.Context, file.Context)}
		block.compare("", plainRouting(source, i), plainRouting(file, i))
		block.slots(source, file, i)
		perBlock[i], noted[i] = block.lines, block.notes
	}
	c.slots(source, file, spec.None)
	return append(c.lines, perLayer(perBlock)...), append(c.notes, perLayer(noted)...)
}

// plainRouting is block i of a model with the one of two ways to say the same
// routing: a softmax over all experts that is normalized over the chosen ones
// is a softmax over the chosen ones.
func plainRouting(m *spec.Model, i int) spec.Block {
	b := m.Blocks[i]
	if b.FFN.MoE == nil {
		return b
	}
	moe := *b.FFN.MoE
	_, corrected := m.Weights[spec.At(i, spec.RouterCorrection)]
	if moe.Scoring == spec.ScoreSoftmax && moe.Normalize && moe.NormEps < 1e-9 && moe.Groups <= 1 && !corrected {
		moe.Scoring = spec.ScoreSoftmaxSelected
	}
	if moe.Groups <= 1 {
		moe.Groups, moe.GroupsUsed, moe.GroupTop2 = 0, 0, false
	}
	if moe.Scoring == spec.ScoreSoftmaxSelected {
		moe.Normalize, moe.NormEps = false, 0
	}
	b.FFN.MoE = &moe
	return b
}

// runtimeLimits is what of a file's metadata llama.cpp does in its own way.
type runtimeLimits struct {
	window int64 // that the file states
	yarn   bool
}

func limitsOf(m gguf.Metadata) runtimeLimits {
	var l runtimeLimits
	arch, err := m.String("general.architecture")
	if err != nil {
		return l
	}
	if n, err := m.Int(arch + ".attention.sliding_window"); err == nil {
		l.window = n
	}
	if kind, err := m.String(arch + ".rope.scaling.type"); err == nil {
		l.yarn = kind == "yarn"
	}
	return l
}

// note says which difference llama.cpp makes of itself; "" where it makes none.
func (l runtimeLimits) note(field string, source, file reflect.Value) string {
	switch field {
	case "Activation":
		if source.String() == string(spec.GELU) && file.String() == string(spec.GELUTanh) {
			return "llama.cpp computes GELU by its tanh approximation"
		}
	case "GroupTop2":
		if !source.Bool() && file.Bool() {
			return "llama.cpp scores a group of experts by its two best"
		}
	case "Window":
		if source.Int() == l.window && file.Int() == 0 {
			return fmt.Sprintf("llama.cpp does not apply the window of %d positions that the file states", l.window)
		}
	case "InvFreq":
		if n := source.Len(); l.yarn && n > 1 && n == file.Len() && near(source.Index(0).Float(), file.Index(0).Float()) && near(source.Index(n-1).Float(), file.Index(n-1).Float()) {
			return "llama.cpp rounds the range of dimensions in which YaRN blends"
		}
	}
	return ""
}

// perLayer writes the lines of blocks, those that several blocks share once.
func perLayer(blocks [][]string) []string {
	var order []string
	where := map[string][]int{}
	for i, lines := range blocks {
		for _, l := range lines {
			if where[l] == nil {
				order = append(order, l)
			}
			where[l] = append(where[l], i)
		}
	}
	var out []string
	for _, l := range order {
		out = append(out, layerRange(where[l])+": "+l)
	}
	return out
}

// layerRange names ascending layers, as in "layers 0-3, 7".
func layerRange(layers []int) string {
	if len(layers) == 1 {
		return fmt.Sprintf("layer %d", layers[0])
	}
	var parts []string
	for i := 0; i < len(layers); {
		j := i
		for j+1 < len(layers) && layers[j+1] == layers[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(layers[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", layers[i], layers[j]))
		}
		i = j + 1
	}
	return "layers " + strings.Join(parts, ", ")
}

type comparer struct {
	limits  runtimeLimits
	context int // positions of the model; 0 where it is not known
	lines   []string
	notes   []string
}

func (c *comparer) differ(path string, source, file any) {
	c.lines = append(c.lines, fmt.Sprintf("%s: the source has %v, the file %v", path, source, file))
}

// compare walks two values of one type.
func (c *comparer) compare(path string, source, file any) {
	c.walk(path, reflect.ValueOf(source), reflect.ValueOf(file))
}

// ignored are the fields that readers choose freely.
var ignored = map[reflect.Type][]string{
	reflect.TypeFor[spec.Norm](): {"Offset"},
	reflect.TypeFor[spec.Rope](): {"Interleaved"},
}

func (c *comparer) walk(path string, a, b reflect.Value) {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			if a.IsNil() != b.IsNil() {
				c.differ(path, presence(a), presence(b))
			}
			return
		}
		c.walk(path, a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			field := a.Type().Field(i).Name
			if slices.Contains(ignored[a.Type()], field) {
				continue
			}
			if field == "Window" && c.unseen(a.Field(i).Int()) && c.unseen(b.Field(i).Int()) {
				continue
			}
			before := len(c.lines)
			c.walk(join(path, words(field)), a.Field(i), b.Field(i))
			if len(c.lines) == before {
				continue
			}
			if note := c.limits.note(field, a.Field(i), b.Field(i)); note != "" {
				c.lines = c.lines[:before]
				c.notes = append(c.notes, note)
			}
		}
	case reflect.Slice:
		if a.Len() != b.Len() {
			c.differ(path, fmt.Sprintf("%d values", a.Len()), fmt.Sprintf("%d", b.Len()))
			return
		}
		for i := range a.Len() {
			if x, y := a.Index(i).Float(), b.Index(i).Float(); !near(x, y) {
				c.differ(fmt.Sprintf("%s[%d]", path, i), x, y)
				return
			}
		}
	case reflect.Float32, reflect.Float64:
		if !near(a.Float(), b.Float()) {
			c.differ(path, a.Float(), b.Float())
		}
	default:
		if !a.Equal(b) {
			c.differ(path, fmt.Sprintf("%v", a), fmt.Sprintf("%v", b))
		}
	}
}

// unseen says that a window of that many positions hides none.
func (c *comparer) unseen(window int64) bool {
	return window <= 0 || c.context > 0 && window >= int64(c.context)
}

func near(a, b float64) bool {
	return math.Abs(a-b) <= max(1e-15, floatTolerance*max(math.Abs(a), math.Abs(b)))
}

func presence(v reflect.Value) string {
	if v.IsNil() {
		return "none"
	}
	return fmt.Sprintf("one (%+v)", v.Elem())
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + ", " + field
}

// words is a field's name as a message has it: "KVHeads" as "KV heads".
func words(field string) string {
	var b strings.Builder
	for i, r := range field {
		lowerNext := i+1 < len(field) && field[i+1] >= 'a' && field[i+1] <= 'z'
		switch {
		case r < 'A' || r > 'Z':
			b.WriteRune(r)
			continue
		case i > 0 && (lowerNext || field[i-1] >= 'a' && field[i-1] <= 'z'):
			b.WriteByte(' ')
		}
		if lowerNext {
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// slots compares which weights there are, and their shapes, in a layer.
func (c *comparer) slots(source, file *spec.Model, layer int) {
	for s, w := range source.Weights {
		if s.Layer != layer {
			continue
		}
		o, ok := file.Weights[s]
		switch {
		case !ok:
			c.lines = append(c.lines, fmt.Sprintf("%s: the source has a tensor, the file none", inLayer(s)))
		case o.Rows != w.Rows || o.Cols != w.Cols:
			c.lines = append(c.lines, fmt.Sprintf("%s: the source's tensor is %d rows of %d, the file's %d of %d", inLayer(s), w.Rows, w.Cols, o.Rows, o.Cols))
		}
	}
	for s := range file.Weights {
		if _, ok := source.Weights[s]; !ok && s.Layer == layer {
			c.lines = append(c.lines, fmt.Sprintf("%s: the file has a tensor, the source none", inLayer(s)))
		}
	}
	slices.Sort(c.lines)
}

// inLayer is a slot without its layer.
func inLayer(s spec.Slot) string {
	if s.Expert != spec.None {
		return fmt.Sprintf("%s of expert %d", s.Role, s.Expert)
	}
	return string(s.Role)
}

// checkVocabulary fails where a file's tokens do not fit its tensors.
func checkVocabulary(v *tokenizer.Vocabulary, rows int) error {
	if len(v.Tokens) != rows {
		return fmt.Errorf("vocabulary mismatch: the file has %d tokens and %d rows of embeddings", len(v.Tokens), rows)
	}
	for _, s := range v.Special {
		if s.ID < 0 || int(s.ID) >= rows {
			return fmt.Errorf("vocabulary mismatch: the file's %s token is %d of %d", s.Role, s.ID, rows)
		}
	}
	return nil
}
