package convert

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// output is one tensor of the file before its type is chosen.
type output struct {
	name  string
	dtype string // of the first checkpoint tensor it is made of
	shape []int64
	from  Matrix
	copy  bool // of weights that another output has
}

// A pattern is a rule's From, ready to be matched: every number between dots
// is a hole.
type pattern struct {
	key   string   // the name with "#" for each number
	holes []string // "{bid}", "{eid}" or the number that must be there
}

func compile(from string) pattern {
	var p pattern
	parts := strings.Split(from, ".")
	for i, part := range parts {
		if part == "{bid}" || part == "{eid}" || isNumber(part) {
			p.holes = append(p.holes, part)
			parts[i] = "#"
		}
	}
	p.key = strings.Join(parts, ".")
	return p
}

func isNumber(s string) bool {
	if s == "" || len(s) > 9 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// match returns the block and the stack index of a name with the pattern's
// key; -1 where the pattern has none.
func (p pattern) match(numbers []string) (bid, eid int, ok bool) {
	bid, eid = -1, -1
	for i, hole := range p.holes {
		n, _ := strconv.Atoi(numbers[i]) // isNumber bounds it
		switch hole {
		case "{bid}":
			bid = n
		case "{eid}":
			eid = n
		default:
			if hole != numbers[i] {
				return 0, 0, false
			}
		}
	}
	return bid, eid, true
}

func substitute(name string, bid, eid int) string {
	name = strings.ReplaceAll(name, "{bid}", strconv.Itoa(bid))
	return strings.ReplaceAll(name, "{eid}", strconv.Itoa(eid))
}

// slot is a rule in one block.
type slot struct {
	rule, bid int
}

// claimed are the checkpoint tensors of a slot by stack index (-1 where the
// rule stacks nothing).
type claimed map[int]Tensor

// matcher finds the rules for a tensor name.
type matcher struct {
	rules    map[string][]int
	patterns []pattern
	drop     map[string][]pattern
}

func newMatcher(a *Architecture) *matcher {
	mt := &matcher{rules: map[string][]int{}, drop: map[string][]pattern{}}
	for i, r := range a.Tensors {
		p := compile(r.From)
		mt.patterns = append(mt.patterns, p)
		mt.rules[p.key] = append(mt.rules[p.key], i)
	}
	for _, d := range a.Drop {
		p := compile(d)
		mt.drop[p.key] = append(mt.drop[p.key], p)
	}
	return mt
}

// alwaysDropped are buffers that old versions of transformers saved.
var alwaysDropped = []string{".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias", ".attn.masked_bias"}

// otherModality are parts of names of what belongs to images and sound in a
// multimodal checkpoint; the text model is what gets converted.
var otherModality = []string{
	"visual.", "vision.", "vision_", "audio.", "audio_", "projector.", "image_newline",
	"patch_embed", "patch_merger.", "resampler.", "multi_modal", "embed_vision", "embed_audio",
}

// shortName is what rules call a checkpoint's tensor: its name without the
// prefixes that some checkpoints have and others lack.
func (a *Architecture) shortName(name string) string {
	name = strings.Replace(name, "language_model.", "", 1)
	for again := true; again; {
		again = false
		for _, p := range a.Prefixes {
			if rest, ok := strings.CutPrefix(name, p); ok {
				name, again = rest, true
			}
		}
	}
	return name
}

// find returns the slots of a tensor name with the stack index in each, and
// whether the name may be dropped.
func (mt *matcher) find(name string) (slots []slot, eids []int, drop bool) {
	var numbers []string
	parts := strings.Split(name, ".")
	for i, part := range parts {
		if isNumber(part) {
			numbers = append(numbers, part)
			parts[i] = "#"
		}
	}
	key := strings.Join(parts, ".")
	for _, i := range mt.rules[key] {
		if bid, eid, ok := mt.patterns[i].match(numbers); ok {
			slots, eids = append(slots, slot{i, bid}), append(eids, eid)
		}
	}
	for _, p := range mt.drop[key] {
		if _, _, ok := p.match(numbers); ok {
			drop = true
		}
	}
	for _, suffix := range alwaysDropped {
		drop = drop || strings.HasSuffix(name, suffix)
	}
	return slots, eids, drop
}

// outputs applies the architecture's rules to the checkpoint. Every tensor
// must be claimed or dropped, and every rule that needs one must find it.
func (m *Model) outputs(tensors []Tensor) ([]output, error) {
	layers, err := m.dim("layers", -1)
	if err != nil {
		return nil, err
	}
	mt := newMatcher(m.arch)
	claims := map[slot]claimed{}
	var unclaimed []string
	for _, t := range tensors {
		name := m.arch.shortName(t.Name)
		slots, eids, drop := mt.find(name)
		if m.arch.Ignore != nil && m.arch.Ignore(m, name) {
			continue
		}
		taken := false
		for i, s := range slots {
			if (m.arch.Tensors[s.rule].DType == "MXFP4") != (t.DType == "MXFP4") {
				continue
			}
			if s.bid >= int(layers) {
				return nil, fmt.Errorf("tensor %s: block %d: %s is %d", t.Name, s.bid, m.dimLabel("layers"), layers)
			}
			if isInteger(t.DType) || t.DType == "BOOL" {
				return nil, fmt.Errorf("tensor %s: %s are no weights, and config.json has no quantization_config that says what they stand for", t.Name, t.DType)
			}
			if claims[s] == nil {
				claims[s] = claimed{}
			}
			if other, ok := claims[s][eids[i]]; ok {
				return nil, fmt.Errorf("tensors %s and %s are the same one", other.Name, t.Name)
			}
			claims[s][eids[i]] = t
			taken = true
		}
		if !taken && !drop && !m.otherModality(t.Name) {
			unclaimed = append(unclaimed, t.Name)
		}
	}
	if len(unclaimed) > 0 {
		slices.Sort(unclaimed)
		return nil, fmt.Errorf("%s: no rule of %s claims this tensor%s", "tensor "+unclaimed[0], m.arch.Name, andMore(unclaimed))
	}
	order := make([]slot, 0, len(claims))
	for s := range claims {
		order = append(order, s)
	}
	slices.SortFunc(order, func(a, b slot) int {
		return cmp.Or(cmp.Compare(a.bid, b.bid), cmp.Compare(a.rule, b.rule))
	})
	var outs []output
	made := map[string]string{} // output name -> checkpoint tensor
	for _, s := range order {
		r := &m.arch.Tensors[s.rule]
		out, first, err := m.apply(r, s.bid, claims[s])
		if err != nil {
			return nil, err
		}
		if out.name == "" {
			continue
		}
		if other, ok := made[out.name]; ok {
			return nil, fmt.Errorf("tensors %s and %s both become %s", other, first, out.name)
		}
		made[out.name] = first
		outs = append(outs, out)
	}
	return outs, m.checkComplete(made, int(layers), tensors)
}

func andMore(names []string) string {
	switch n := len(names) - 1; {
	case n == 0:
		return ""
	case n <= 3:
		return ", nor " + strings.Join(names[1:], ", ")
	default:
		return fmt.Sprintf(", nor %s and %d more", strings.Join(names[1:4], ", "), n-3)
	}
}

func (m *Model) otherModality(name string) bool {
	if !m.Config.Has(nestedText...) {
		return false
	}
	for _, part := range otherModality {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// apply makes the output of a rule in a block from the tensors it claimed.
func (m *Model) apply(r *Rule, bid int, parts claimed) (output, string, error) {
	var x operand
	var dtype, first string
	if r.Count == "" {
		t := parts[-1]
		first, dtype = t.Name, t.DType
		o, err := m.checked(r, bid, t)
		if err != nil {
			return output{}, first, err
		}
		x = o
	} else {
		count, err := m.eval(r.Count, bid)
		if err != nil {
			return output{}, "", err
		}
		if count > 1<<20 {
			return output{}, "", fmt.Errorf("config.json: %s: %d is out of range", m.label(r.Count), count)
		}
		stack := Stack{Parts: make([]Matrix, 0, len(parts))}
		for eid := range int(count) {
			t, ok := parts[eid]
			if !ok {
				return output{}, "", fmt.Errorf("tensor %s: missing: want %d from %s", substitute(m.shown(r.From, parts), bid, eid), count, m.label(r.Count))
			}
			o, err := m.checked(r, bid, t)
			if err != nil {
				return output{}, t.Name, err
			}
			if eid == 0 {
				first, dtype = t.Name, t.DType
				x.shape = append([]int64{count}, o.shape...)
			}
			stack.Parts = append(stack.Parts, o.from)
		}
		if len(parts) != int(count) {
			for eid, t := range parts {
				if eid >= int(count) {
					return output{}, t.Name, fmt.Errorf("tensor %s: index %d: want %d from %s", t.Name, eid, count, m.label(r.Count))
				}
			}
		}
		x.from = stack
	}
	to := r.To
	if r.Rename != nil {
		to = r.Rename(m, bid, to)
	}
	if to == "" {
		return output{}, first, nil
	}
	for _, step := range r.Do {
		var err error
		if x, err = step.apply(m, bid, x); err != nil {
			return output{}, first, fmt.Errorf("tensor %s: %w", first, err)
		}
	}
	return output{name: substitute(to, bid, -1), dtype: dtype, shape: x.shape, from: x.from, copy: r.Copy}, first, nil
}

// shown gives a rule's name the prefix that the checkpoint uses.
func (m *Model) shown(from string, parts claimed) string {
	for _, t := range parts {
		if at := strings.Index(t.Name, strings.SplitN(from, ".", 2)[0]); at > 0 {
			return t.Name[:at] + from
		}
	}
	return from
}

// checked holds a checkpoint tensor's shape against the rule's.
func (m *Model) checked(r *Rule, bid int, t Tensor) (operand, error) {
	want, err := m.shape(r.Shape, bid)
	if err != nil {
		return operand{}, fmt.Errorf("tensor %s: %w", t.Name, err)
	}
	if !slices.Equal(want, t.Shape) {
		label := m.shapeLabel(r.Shape, want, t.Shape)
		return operand{}, fmt.Errorf("tensor %s: shape %v: want %v from %s", t.Name, t.Shape, want, label)
	}
	return operand{t.From, slices.Clone(t.Shape)}, nil
}

// shapeLabel names the config fields of the first dimension that differs, or
// of all where the number of dimensions does.
func (m *Model) shapeLabel(spec string, want, got []int64) string {
	parts := strings.Split(spec, ",")
	if len(want) == len(got) {
		for i := range want {
			if want[i] != got[i] {
				return m.label(strings.TrimSpace(parts[i]))
			}
		}
	}
	for i, p := range parts {
		parts[i] = m.label(strings.TrimSpace(p))
	}
	return strings.Join(parts, ", ")
}

// checkComplete reports the first output that a rule needs and that nothing
// made.
func (m *Model) checkComplete(made map[string]string, layers int, tensors []Tensor) error {
	prefix := ""
	for _, t := range tensors {
		for _, p := range m.arch.Prefixes {
			if strings.HasPrefix(t.Name, p) {
				prefix = p
			}
		}
	}
	for i := range m.arch.Tensors {
		r := &m.arch.Tensors[i]
		if r.Need == nil || r.To == "" {
			continue
		}
		first, last := -1, -1
		if strings.Contains(r.To, "{bid}") {
			first, last = 0, layers-1
		}
		for bid := first; bid <= last; bid++ {
			if !r.Need(m, bid) {
				continue
			}
			if _, ok := made[substitute(r.To, bid, -1)]; !ok {
				from := r.From
				if from != "lm_head.weight" {
					from = prefix + from
				}
				return fmt.Errorf("tensor %s: missing: %s needs it for %s", substitute(from, bid, 0), m.arch.Name, substitute(r.To, bid, -1))
			}
		}
	}
	if len(made) == 0 {
		return errors.New("the checkpoint has no tensors")
	}
	return m.checkAlike(made)
}

// checkAlike reports a tensor that a block lacks, though another block has it
// and nothing else that this one has not: a bias that was lost. Blocks of
// another kind have tensors of their own, or the rules need more of them.
func (m *Model) checkAlike(made map[string]string) error {
	needed := func(tensor string, bid int) bool {
		return slices.ContainsFunc(m.arch.Tensors, func(r Rule) bool {
			return r.To == block+tensor && r.Need != nil && r.Need(m, bid)
		})
	}
	blocks := map[int][]string{} // the names in each block, sorted
	for _, name := range slices.Sorted(maps.Keys(made)) {
		rest, ok := strings.CutPrefix(name, "blk.")
		number, tensor, _ := strings.Cut(rest, ".")
		if bid, err := strconv.Atoi(number); ok && err == nil && !strings.HasPrefix(tensor, "nextn.") {
			blocks[bid] = append(blocks[bid], tensor)
		}
	}
	kinds := map[string]int{} // the first block of each kind
	for _, bid := range slices.Sorted(maps.Keys(blocks)) {
		kind := strings.Join(blocks[bid], " ")
		if _, ok := kinds[kind]; !ok {
			kinds[kind] = bid
		}
	}
	for _, full := range slices.Sorted(maps.Values(kinds)) {
		for _, part := range slices.Sorted(maps.Values(kinds)) {
			if !containsAll(blocks[full], blocks[part]) {
				continue
			}
			for _, tensor := range blocks[full] {
				if slices.Contains(blocks[part], tensor) || needed(tensor, full) {
					continue
				}
				has := made[fmt.Sprintf("blk.%d.%s", full, tensor)]
				lacks := strings.Replace(has, fmt.Sprintf(".%d.", full), fmt.Sprintf(".%d.", part), 1)
				return fmt.Errorf("tensor %s: missing: block %d has %s", lacks, full, has)
			}
		}
	}
	return nil
}

func containsAll(list, of []string) bool {
	return !slices.ContainsFunc(of, func(s string) bool { return !slices.Contains(list, s) })
}

// afterLastBlock holds for the tensors of blocks that num_hidden_layers does
// not count: those that predict further tokens.
func afterLastBlock(m *Model, name string) bool {
	rest, ok := strings.CutPrefix(name, "layers.")
	if !ok {
		return false
	}
	number, _, _ := strings.Cut(rest, ".")
	layers, err := m.Config.Int("num_hidden_layers")
	if err != nil || !isNumber(number) {
		return false
	}
	further, err := m.Config.Int("num_nextn_predict_layers")
	if err != nil {
		further = 0
	}
	bid, _ := strconv.ParseInt(number, 10, 64) // isNumber bounds it
	return bid >= layers && bid < layers+max(further, 1)
}
