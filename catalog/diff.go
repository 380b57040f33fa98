package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Change is a difference of two catalogs.
type Change struct {
	Model string `json:"model"`
	Kind  string `json:"kind"`            // added, removed, changed
	Field string `json:"field,omitempty"` // path of what changed, as in serving.prices[0].amount
	Old   string `json:"old,omitempty"`   // JSON
	New   string `json:"new,omitempty"`
}

// The kinds of changes.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// Diff returns what is different in catalog b, by slug and field. It reads
// only parts that differ.
func Diff(ctx context.Context, a, b *Reader) ([]Change, error) {
	parts, gone, err := b.Changed(ctx, a)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, slug := range gone {
		out = append(out, Change{Model: slug, Kind: Removed})
	}
	before, _, err := a.Changed(ctx, b)
	if err != nil {
		return nil, err
	}
	old := map[string]*Model{}
	for _, part := range before {
		for i := range part.Models {
			old[part.Models[i].Slug] = &part.Models[i]
		}
	}
	for _, part := range parts {
		for i := range part.Models {
			m := &part.Models[i]
			was := old[m.Slug]
			if was == nil {
				out = append(out, Change{Model: m.Slug, Kind: Added})
				continue
			}
			fields, err := diffModels(was, m)
			if err != nil {
				return nil, err
			}
			out = append(out, fields...)
		}
	}
	slices.SortStableFunc(out, func(x, y Change) int { return strings.Compare(x.Model, y.Model) })
	return out, nil
}

// diffModels compares the JSON of two models.
func diffModels(a, b *Model) ([]Change, error) {
	x, err := asJSON(a)
	if err != nil {
		return nil, err
	}
	y, err := asJSON(b)
	if err != nil {
		return nil, err
	}
	var out []Change
	diffValues("", x, y, func(field string, was, is any) {
		out = append(out, Change{Model: b.Slug, Kind: Changed, Field: field, Old: shown(was), New: shown(is)})
	})
	return out, nil
}

func asJSON(m *Model) (any, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	var v any
	err = json.Unmarshal(data, &v)
	return v, err
}

// diffValues calls found for each field that differs. Elements of lists that
// have a name of their own are compared by it.
func diffValues(at string, a, b any, found func(field string, was, is any)) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			keys := maps.Clone(x)
			maps.Copy(keys, y)
			for _, k := range slices.Sorted(maps.Keys(keys)) {
				field := k
				if at != "" {
					field = at + "." + k
				}
				diffValues(field, x[k], y[k], found)
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			p, q := named(x), named(y)
			if p != nil && q != nil {
				keys := maps.Clone(p)
				maps.Copy(keys, q)
				for _, k := range slices.Sorted(maps.Keys(keys)) {
					diffValues(at+"["+k+"]", p[k], q[k], found)
				}
				return
			}
			if len(x) == len(y) {
				for i := range x {
					diffValues(fmt.Sprintf("%s[%d]", at, i), x[i], y[i], found)
				}
				return
			}
		}
	}
	if !reflect.DeepEqual(a, b) {
		found(at, a, b)
	}
}

// named returns the elements of a list by their name, or nil where they have
// none that is unique.
func named(list []any) map[string]any {
	out := map[string]any{}
	for _, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		name := ""
		for _, key := range []string{"id", "version", "name", "path"} {
			if m[key] != nil {
				name = fmt.Sprint(m[key])
				break
			}
		}
		if name == "" || out[name] != nil {
			return nil
		}
		out[name] = v
	}
	return out
}

// shown is a JSON value on one line, cut short.
func shown(v any) string {
	if v == nil {
		return ""
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	const most = 200
	if len(data) > most {
		return strings.ToValidUTF8(string(data[:most]), "") + "..."
	}
	return string(data)
}
