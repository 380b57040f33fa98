package convert

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Dim says where the value of a dimension's name comes from. Shapes in the
// architecture table are written with such names, as in "heads*head_dim,
// hidden": a list of sums and products, outermost dimension first.
type Dim struct {
	// Fields are the config fields that may hold the value, the first that is
	// set counts. They also name the dimension in errors.
	Fields []string
	// Expr gives the value where no field is set, in terms of other dims.
	Expr string
	// Calc computes what an expression cannot.
	Calc func(m *Model) (int64, error)
}

// maxDim bounds every dimension and count, and maxLayers the number of blocks:
// what a config asks for is not believed beyond them.
const (
	maxDim    = 1 << 31
	maxLayers = 1 << 16
)

// dims are the names every architecture can use; an Architecture's own Dims
// come before them.
var dims = map[string]Dim{
	"layers":      {Fields: []string{"num_hidden_layers", "n_layers", "n_layer", "num_layers"}},
	"hidden":      {Fields: []string{"hidden_size", "n_embd", "dim"}},
	"vocab":       {Fields: []string{"vocab_size"}},
	"context":     {Fields: []string{"max_position_embeddings", "n_ctx", "n_positions"}},
	"heads":       {Fields: []string{"num_attention_heads", "n_head", "n_heads"}},
	"kv_heads":    {Fields: []string{"num_key_value_heads", "n_kv_heads"}, Expr: "heads"},
	"head_dim":    {Fields: []string{"head_dim"}, Expr: "hidden/heads"},
	"ff":          {Fields: []string{"prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner", "hidden_dim"}},
	"experts":     {Fields: []string{"num_local_experts", "num_experts", "n_routed_experts"}},
	"expert_ff":   {Fields: []string{"moe_intermediate_size"}, Expr: "ff"},
	"token_types": {Fields: []string{"type_vocab_size"}},
}

// dim returns the value of a named dimension for block bid (-1 outside the
// blocks).
func (m *Model) dim(name string, bid int) (int64, error) {
	d, ok := m.arch.Dims[name]
	if !ok {
		d, ok = dims[name]
	}
	if !ok {
		return 0, fmt.Errorf("table names no dimension %q", name)
	}
	if m.dimDepth++; m.dimDepth > 16 {
		return 0, fmt.Errorf("dimension %q is defined by itself", name)
	}
	defer func() { m.dimDepth-- }()
	n, err := m.dimValue(d, bid)
	if err != nil {
		return 0, err
	}
	if n <= 0 || n > maxDim || name == "layers" && n > maxLayers {
		return 0, fmt.Errorf("config.json: %s: %d is out of range", m.dimLabel(name), n)
	}
	return n, nil
}

func (m *Model) dimValue(d Dim, bid int) (int64, error) {
	for _, field := range d.Fields {
		v, _, ok := m.Config.Raw(field)
		if !ok {
			continue
		}
		if list, ok := v.([]any); ok { // one value per block
			if bid < 0 {
				bid = 0
			}
			if bid >= len(list) {
				return 0, fmt.Errorf("config.json: %s: %d entries: want one per block", field, len(list))
			}
			v = list[bid]
		}
		n, err := toInt(v)
		if err != nil {
			return 0, fmt.Errorf("config.json: %s: %w", field, err)
		}
		return n, nil
	}
	switch {
	case d.Calc != nil:
		return d.Calc(m)
	case d.Expr != "":
		return m.eval(d.Expr, bid)
	}
	return 0, missing(d.Fields...)
}

// dimLabel is how errors call a dimension: by the config field that sets it.
func (m *Model) dimLabel(name string) string {
	d, ok := m.arch.Dims[name]
	if !ok {
		d = dims[name]
	}
	for _, f := range d.Fields {
		if m.Config.Has(f) {
			return f
		}
	}
	switch {
	case d.Expr != "":
		return m.label(d.Expr)
	case len(d.Fields) > 0:
		return d.Fields[0]
	}
	return name
}

// shape evaluates a comma-separated list of expressions.
func (m *Model) shape(spec string, bid int) ([]int64, error) {
	parts := strings.Split(spec, ",")
	out := make([]int64, len(parts))
	for i, p := range parts {
		n, err := m.eval(p, bid)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}

// eval computes one expression over dimension names and numbers with + - * /
// and parentheses. Divisions must be exact.
func (m *Model) eval(expr string, bid int) (int64, error) {
	p := exprParser{text: expr, lookup: func(name string) (int64, error) { return m.dim(name, bid) }}
	n, err := p.sum()
	if err != nil {
		return 0, err
	}
	if p.skip(); p.at < len(p.text) {
		return 0, fmt.Errorf("table expression %q: unexpected %q", expr, p.text[p.at:])
	}
	return n, nil
}

// label turns an expression into words of the config: "heads*head_dim" becomes
// "num_attention_heads x head_dim".
func (m *Model) label(expr string) string {
	var b strings.Builder
	for i := 0; i < len(expr); {
		j := i
		for j < len(expr) && isNameByte(expr[j]) {
			j++
		}
		switch {
		case j > i:
			word := expr[i:j]
			if word[0] >= '0' && word[0] <= '9' {
				b.WriteString(word)
			} else {
				label := m.dimLabel(word)
				if strings.ContainsAny(label, " ") && len(expr) > len(word) {
					label = "(" + label + ")"
				}
				b.WriteString(label)
			}
			i = j
			continue
		case expr[i] == '*':
			b.WriteString(" x ")
		case slices.Contains([]byte("+-/"), expr[i]):
			b.WriteString(" " + expr[i:i+1] + " ")
		case expr[i] != ' ':
			b.WriteByte(expr[i])
		}
		i++
	}
	return b.String()
}

func isNameByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// exprParser is a recursive-descent reader of dimension expressions.
type exprParser struct {
	text   string
	at     int
	lookup func(name string) (int64, error)
}

func (p *exprParser) skip() {
	for p.at < len(p.text) && p.text[p.at] == ' ' {
		p.at++
	}
}

func (p *exprParser) operator(set string) byte {
	p.skip()
	if p.at < len(p.text) && strings.IndexByte(set, p.text[p.at]) >= 0 {
		p.at++
		return p.text[p.at-1]
	}
	return 0
}

func (p *exprParser) sum() (int64, error) {
	left, err := p.product()
	for err == nil {
		op := p.operator("+-")
		if op == 0 {
			break
		}
		var right int64
		if right, err = p.product(); err != nil {
			break
		}
		if op == '-' {
			right = -right
		}
		left += right // both are far below the range of int64
	}
	return left, err
}

func (p *exprParser) product() (int64, error) {
	left, err := p.factor()
	for err == nil {
		op := p.operator("*/")
		if op == 0 {
			break
		}
		var right int64
		if right, err = p.factor(); err != nil {
			break
		}
		if op == '/' {
			if right == 0 || left%right != 0 {
				return 0, fmt.Errorf("config.json: %d is not a multiple of %d (%s)", left, right, p.text)
			}
			left /= right
			continue
		}
		if left > 1<<40 || right > 1<<20 && left > 1<<31 {
			return 0, fmt.Errorf("config.json: %s is out of range", p.text)
		}
		left *= right
	}
	return left, err
}

func (p *exprParser) factor() (int64, error) {
	if p.operator("(") != 0 {
		n, err := p.sum()
		if err == nil && p.operator(")") == 0 {
			err = fmt.Errorf("table expression %q: parenthesis not closed", p.text)
		}
		return n, err
	}
	start := p.at
	for p.at < len(p.text) && isNameByte(p.text[p.at]) {
		p.at++
	}
	word := p.text[start:p.at]
	if word == "" {
		return 0, fmt.Errorf("table expression %q: want a name or a number", p.text)
	}
	if n, err := strconv.ParseInt(word, 10, 64); err == nil {
		return n, nil
	}
	return p.lookup(word)
}
