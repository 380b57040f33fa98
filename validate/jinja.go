package validate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
)

// A chat template is a stranger's program: these bound what it may cost.
const (
	maxTemplate  = 1 << 20 // bytes of its text
	maxRendering = 1 << 22 // bytes of what it writes
	maxRange     = 1 << 16 // numbers that range makes
	maxRender    = 5 * time.Second
)

// templateDay is what strftime_now says, so that two renderings are of one day.
const templateDay = "26 Jul 2024"

// ErrRaised is what a template says by raise_exception.
var ErrRaised = errors.New("the template raises")

// render runs a chat template as transformers does: blocks are trimmed, and
// raise_exception, strftime_now and tojson are there. Mappings go in the order
// of their keys. An error that is ErrRaised is the template's own.
func render(template string, vars map[string]any) (string, error) {
	if len(template) > maxTemplate {
		return "", fmt.Errorf("chat template of %d bytes: more than %d", len(template), maxTemplate)
	}
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := renderNow(template, vars)
		done <- result{text, err}
	}()
	late := time.NewTimer(maxRender)
	defer late.Stop()
	select {
	case r := <-done:
		return r.text, r.err
	case <-late.C:
		return "", fmt.Errorf("chat template runs for more than %v", maxRender)
	}
}

func renderNow(template string, vars map[string]any) (text string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("chat template: %v", r)
		}
	}()
	raised := ""
	globals := exec.NewContext(map[string]any{
		"raise_exception": func(_ *exec.Evaluator, args *exec.VarArgs) (*exec.Value, error) {
			raised = args.First().String()
			return nil, ErrRaised
		},
		"strftime_now": func(*exec.Evaluator, *exec.VarArgs) string { return templateDay },
		"range":        boundedRange,
	})
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	if err := errors.Join(filters.Replace("tojson", toJSON), filters.Replace("items", sortedItems)); err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	c := config.New()
	c.TrimBlocks, c.LeftStripBlocks = true, true
	const name = "/chat_template"
	loader, err := loaders.NewMemoryLoader(map[string]string{name: template})
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	t, err := exec.NewTemplate(name, c, loader, &exec.Environment{
		Context:           exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables).Update(globals),
		Filters:           filters,
		Tests:             builtins.Tests,
		ControlStructures: builtins.ControlStructures,
		Methods:           builtins.Methods,
	})
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	out := limited{left: maxRendering}
	if err := t.Execute(&out, exec.NewContext(vars)); err != nil {
		if raised != "" {
			return "", fmt.Errorf("%w: %s", ErrRaised, raised)
		}
		return "", fmt.Errorf("chat template: %w", err)
	}
	return out.String(), nil
}

// limited is a buffer that refuses to grow beyond left.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, fmt.Errorf("renders more than %d bytes", maxRendering)
	}
	return l.Buffer.Write(p)
}

func (l *limited) WriteString(s string) (int, error) { return l.Write([]byte(s)) }

var _ io.StringWriter = (*limited)(nil)

// boundedRange is Python's range as a list.
func boundedRange(_ *exec.Evaluator, args *exec.VarArgs) ([]int, error) {
	var n []int
	for _, a := range args.Args {
		if !a.IsInteger() {
			return nil, fmt.Errorf("range(%v): want integers", a)
		}
		n = append(n, a.Integer())
	}
	start, stop, step := 0, 0, 1
	switch len(n) {
	case 1:
		stop = n[0]
	case 2:
		start, stop = n[0], n[1]
	case 3:
		start, stop, step = n[0], n[1], n[2]
	default:
		return nil, fmt.Errorf("range: %d arguments: want 1 to 3", len(n))
	}
	if step == 0 {
		return nil, errors.New("range: step 0")
	}
	out := []int{}
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(out) == maxRange {
			return nil, fmt.Errorf("range: more than %d numbers", maxRange)
		}
		out = append(out, i)
	}
	return out, nil
}

// sortedItems is jinja2's filter items in the order of the keys; the library's
// own has none.
func sortedItems(_ *exec.Evaluator, in *exec.Value, _ *exec.VarArgs) *exec.Value {
	out := []any{}
	for _, key := range in.Keys() {
		value, _ := in.GetItem(key.Interface())
		out = append(out, []any{key.Interface(), value.Interface()})
	}
	return exec.AsValue(out)
}

// toJSON is transformers' tojson: Python's json.dumps with ensure_ascii false.
func toJSON(_ *exec.Evaluator, in *exec.Value, args *exec.VarArgs) *exec.Value {
	indent := -1
	if v, ok := args.KwArgs["indent"]; ok && v.IsInteger() {
		indent = min(v.Integer(), 16)
	}
	var b bytes.Buffer
	if err := dumpJSON(&b, in.Interface(), indent, 0); err != nil {
		return exec.AsValue(err)
	}
	return exec.AsSafeValue(b.String())
}

// dumpJSON writes x with Python's separators; indent < 0 is all on one line.
func dumpJSON(b *bytes.Buffer, x any, indent, depth int) error {
	if depth > 64 || b.Len() > maxRendering {
		return errors.New("tojson: too deep or too long")
	}
	list := func(open, shut byte, n int, element func(int) error) error {
		b.WriteByte(open)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
				if indent < 0 {
					b.WriteByte(' ')
				}
			}
			if indent >= 0 {
				b.WriteString("\n" + strings.Repeat(" ", indent*(depth+1)))
			}
			if err := element(i); err != nil {
				return err
			}
		}
		if indent >= 0 && n > 0 {
			b.WriteString("\n" + strings.Repeat(" ", indent*depth))
		}
		b.WriteByte(shut)
		return nil
	}
	pair := func(key string, value any) error {
		if err := dumpJSON(b, key, -1, 0); err != nil {
			return err
		}
		b.WriteString(": ")
		return dumpJSON(b, value, indent, depth+1)
	}
	switch x := x.(type) {
	case *exec.Value:
		return dumpJSON(b, x.Interface(), indent, depth)
	case *exec.Dict:
		return list('{', '}', len(x.Pairs), func(i int) error { return pair(x.Pairs[i].Key.String(), x.Pairs[i].Value) })
	case exec.Dict:
		return dumpJSON(b, &x, indent, depth)
	case map[string]any:
		keys := slices.SortedFunc(maps.Keys(x), cmp.Compare[string])
		return list('{', '}', len(keys), func(i int) error { return pair(keys[i], x[keys[i]]) })
	case []any:
		return list('[', ']', len(x), func(i int) error { return dumpJSON(b, x[i], indent, depth+1) })
	default:
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		if err := e.Encode(x); err != nil {
			return fmt.Errorf("tojson: %w", err)
		}
		b.Truncate(b.Len() - 1) // Encode ends the line
		return nil
	}
}
