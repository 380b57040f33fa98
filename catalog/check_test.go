package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/modelpipe/modelpipe/publish"
)

// edit changes one place of the example and returns the document.
func edit(t *testing.T, path string, value any) []byte {
	t.Helper()
	var doc any
	if err := json.Unmarshal(example(t), &doc); err != nil {
		t.Fatal(err)
	}
	at := doc
	keys := strings.Split(path, "/")
	for i, k := range keys {
		last := i == len(keys)-1
		switch x := at.(type) {
		case map[string]any:
			if last {
				if value == nil {
					delete(x, k)
				} else {
					x[k] = value
				}
			}
			at = x[k]
		case []any:
			var n int
			fmt.Sscan(k, &n)
			if last {
				x[n] = value
			}
			at = x[n]
		}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRefused: what the schema refuses the program refuses, with a message
// that names the field.
func TestRefused(t *testing.T) {
	schema := compileSchema(t, Schema())
	for _, c := range []struct {
		path  string
		value any
		want  string
	}{
		{"$schema", "https://github.com/modelpipe/modelpipe/schema/catalog/2.0.0/catalog.schema.json", "$schema: "},
		{"channel", nil, "channel: is missing"},
		{"more", 1, `unknown field "more"`},
		{"models/0/slug", "A", `models[0].slug: "A"`},
		{"models/0/slug", "../x", `models[0].slug: "../x": want lower-case`},
		{"models/0/description", strings.Repeat("x", 5000), "has 5000 characters"},
		{"models/0/context_window", 0, "models[0].context_window: 0: want at least 1"},
		{"models/0/context_window", "512", "models.context_window is a JSON string"},
		{"models/0/created", "yesterday", "cannot parse"},
		{"models/0/modalities/input", []any{"smell"}, `models[0].modalities.input[0]: "smell": want text`},
		{"models/0/variants/0/files/0/path", "../../x.gguf", "want a relative path"},
		{"models/0/variants/0/files/0/path", "/x.gguf", "want a relative path"},
		{"models/0/variants/0/files/0/path", `x\y.gguf`, "want a relative path"},
		{"models/0/variants/0/files/0/sha256", "d1a4", "want \"sha256:\""},
		{"models/0/variants/0/files/0/size", -1, "size: -1: want at least 0"},
		{"models/0/variants/0/files", []any{}, "files: has 0 elements"},
		{"models/0/variants/0/locations/0/kind", "ftp", `kind: "ftp": want store`},
		{"models/0/releases/0/weight", 101, "weight: 101: want at most 100"},
		{"models/0/releases/0/slot", "red", `slot: "red": want blue, green`},
		{"models/0/serving/prices/0/amount", "-0.1", `amount: "-0.1"`},
		{"models/0/serving/prices/0/amount", 0.1, "is a JSON number"},
		{"models/0/serving/prices/0/currency", "usd", `currency: "usd": want an ISO 4217`},
		{"models/0/serving/prices/0/currency", nil, "currency: is missing"},
	} {
		data := edit(t, c.path, c.value)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(doc) == nil {
			t.Errorf("%s = %.40v: the schema allows it", c.path, c.value)
		}
		if _, err := Decode(data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %.40v: got %v, want %q", c.path, c.value, err, c.want)
		}
	}
	for text, want := range map[string]string{"": "EOF", "{": "is cut off", "[]": "does not fit", string(example(t)) + "x": "more data"} {
		if _, err := Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.10q: got %v, want %q", text, err, want)
		}
	}
}

// TestValidate: what the schema cannot say.
func TestValidate(t *testing.T) {
	c, err := Decode(example(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Models {
		if err := c.Models[i].Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, x := range []struct {
		want   string
		change func(*Model)
	}{
		{"weights of the active releases add up to 90", func(m *Model) { m.Releases[0].Weight = 10 }},
		{"both active in slot blue", func(m *Model) { m.Releases[0].Slot = Blue }},
		{"has the variant \"gone\", which is not there", func(m *Model) { m.Releases[0].Variants[0] = "gone" }},
		{"want the newest first", func(m *Model) { m.Releases[0].Version = 1 }},
		{"a reason must be given", func(m *Model) { m.Releases[1].Withdrawn = &Withdrawal{day, "x"} }},
		{"is there twice", func(m *Model) { m.Variants[1].ID = m.Variants[0].ID }},
		{"the files add up to", func(m *Model) { m.Variants[0].Size++ }},
		{"the first file must be the model", func(m *Model) { m.Variants[0].Files[0].Role = RoleLicense }},
		{"more than context_window", func(m *Model) { m.Serving.ContextTokens = m.ContextWindow + 1 }},
		{"climbs out with ..", func(m *Model) { m.Variants[0].Locations[1].URI = "https://host/a/../../b" }},
		{"is a device on Windows", func(m *Model) { m.Variants[0].Files[0].Path = "nul.gguf" }},
		{"without embedding", func(m *Model) { m.Task = TextEmbeddings }},
		{"pairing assistant is of", func(m *Model) { m.Pairings[0].Light = "other" }},
	} {
		c, err := Decode(example(t))
		if err != nil {
			t.Fatal(err)
		}
		m := &c.Models[2]
		x.change(m)
		if err := m.Validate(); err == nil || !strings.Contains(err.Error(), x.want) || !strings.HasPrefix(err.Error(), `model "qwen3-0.6b": `) {
			t.Errorf("got %v, want %q", err, x.want)
		}
	}
	m := &c.Models[2]
	if m.Current().Version != 1 || m.Default().Name != "Q4_K_M" || len(m.Served()) != 2 {
		t.Errorf("release %d, variant %s", m.Current().Version, m.Default().Name)
	}
	p, _ := m.Serving.Price(UnitInputToken, TierStandard)
	if r, err := p.PerUnit(); err != nil || r.FloatString(12) != "0.000000049000" {
		t.Errorf("got %v, %v", r, err)
	}
	v := m.Default()
	if got := v.Locations[3].Address(v.Files[0]); got != "oci://registry.example.com/edge/qwen3-0.6b@"+string(v.Files[0].SHA256) {
		t.Errorf("got %s", got)
	}
}

func TestDiff(t *testing.T) {
	_, s := shop(t)
	build(t, curation(t, two), s)
	a := open(t, s)
	next := strings.Replace(two, "A small model.", "Another text.", 1) + modelTOML("gamma", "")
	if err := operator(s, day).PutRecord(t.Context(), record(t, "gamma", "Q8_0", "g", day), nil, nil); err != nil {
		t.Fatal(err)
	}
	build(t, curation(t, next), s)
	b := open(t, s)
	show := func(a, b *Reader) (out []string) {
		t.Helper()
		changes, err := Diff(t.Context(), a, b)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			out = append(out, strings.TrimSpace(strings.Join([]string{c.Model, c.Kind, c.Field, c.Old, c.New}, " ")))
		}
		return out
	}
	if got, want := show(a, b), []string{`alpha changed description "A small model." "Another text."`, "gamma added"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got, want := show(b, a), []string{`alpha changed description "Another text." "A small model."`, "gamma removed"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := show(b, b); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestLint(t *testing.T) {
	_, s := shop(t)
	text := strings.Replace(two, `spdx = "Apache-2.0"`, `spdx = "Apatchy-2.0"`, 1) + modelTOML("gamma", `
[model.deprecated]
at = 2026-01-01T00:00:00Z
reason = "old"
replacement = "delta"
[[model.serving.prices]]
unit = "output_token"
per = 1000000
amount = "0.5"
currency = "XYY"
[model.serving.budget]
amount = "5"
currency = "EUR"
period = "day"
alarm_percent = 80
`)
	c := curation(t, text)
	build(t, c, s)
	findings, err := Lint(t.Context(), LintOptions{Curation: c, Catalog: open(t, s), Store: s.(Opener), Now: day})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range findings {
		got = append(got, f.Model+": "+f.Text)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{
		`alpha: license.spdx "Apatchy-2.0": is not an SPDX expression`,
		`gamma: price of output_token: "XYY" is not a currency of ISO 4217`,
		`gamma: budget is in "EUR", no price is`,
		"gamma: deprecated.replacement: no model has the slug delta",
		"gamma: tier standard has a price of output tokens and none of input tokens",
		"broken location: models/alpha/q8_0-",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not among\n%s", want, all)
		}
	}
	if strings.Contains(all, "models.example.com") {
		t.Error("somebody asked a server")
	}
}

func TestLog(t *testing.T) {
	s := store(t, t.TempDir())
	ctx := t.Context()
	log := NewLog(s)
	for i := range 5 {
		e, err := log.Append(ctx, LogEntry{Time: day.AddDate(0, 0, 60*i), Actor: "a", Action: ActionBuild})
		if err != nil || e.Sequence != int64(i+1) {
			t.Fatalf("got %+v, %v", e, err)
		}
	}
	now := day.AddDate(0, 0, 240)
	if n, err := log.Verify(ctx, now, nil); err != nil || n != 5 {
		t.Fatalf("%d entries: %v", n, err)
	}
	if _, err := log.Append(ctx, LogEntry{Time: day, Actor: "a", Action: ActionBuild}); !errors.Is(err, ErrClock) {
		t.Errorf("a clock of long ago: %v", err)
	}
	// A writer that was killed before it could move the head.
	data, _, err := s.Get(ctx, logHead, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(ctx, LogEntry{Time: now, Actor: "b", Action: ActionBuild}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, logHead, data, publish.Any); err != nil {
		t.Fatal(err)
	}
	if e, err := log.Append(ctx, LogEntry{Time: now, Actor: "c", Action: ActionBuild}); err != nil || e.Sequence != 7 {
		t.Errorf("got %+v, %v", e, err)
	}
	if _, err := log.Prune(ctx, 179*24*time.Hour, "a", now); err == nil || !strings.Contains(err.Error(), "at least 180 days") {
		t.Errorf("got %v", err)
	}
	if n, err := log.Prune(ctx, Retention, "a", now); err != nil || n != 1 {
		t.Errorf("%d entries are gone: %v", n, err)
	}
	if n, err := log.Verify(ctx, now, nil); err != nil || n != 7 {
		t.Errorf("%d entries: %v", n, err)
	}
	// Entry 3 on its own is not old enough to be the first.
	if _, err := s.Put(ctx, logHead, []byte(strings.Replace(string(mustGet(t, s, logHead)), `"first":2`, `"first":3`, 1)), publish.Any); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Verify(ctx, now, nil); err == nil || !strings.Contains(err.Error(), "begins with entry 3") {
		t.Errorf("got %v", err)
	}
	// Somebody rewrites history.
	if _, err := s.Put(ctx, logName(5), []byte(strings.Replace(string(mustGet(t, s, logName(5))), `"actor":"a"`, `"actor":"z"`, 1)), publish.Any); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Verify(ctx, now, nil); err == nil || !strings.Contains(err.Error(), "entry 5 was changed") {
		t.Errorf("got %v", err)
	}
}

func mustGet(t *testing.T, s publish.Store, name string) []byte {
	t.Helper()
	data, _, err := s.Get(context.Background(), name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCollect(t *testing.T) {
	_, s := shop(t)
	build(t, curation(t, two), s)
	live := open(t, s)
	build(t, curation(t, strings.Replace(two, "A small model.", "Another text.", 1)), s)
	later := time.Now().Add(48 * time.Hour)
	if gone, err := Collect(t.Context(), s, 24*time.Hour, time.Now(), false); err != nil || len(gone) != 0 {
		t.Errorf("young objects: %q, %v", gone, err)
	}
	gone, err := Collect(t.Context(), s, 24*time.Hour, later, false)
	if err != nil || len(gone) != 1 {
		t.Errorf("got %q, %v", gone, err)
	}
	if _, err := open(t, s).Lookup(t.Context(), "alpha"); err != nil {
		t.Error(err)
	}
	if _, err := live.Lookup(t.Context(), "alpha"); err == nil {
		t.Error("the old object is there still")
	}
	all, err := Live(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"models/alpha/" + record(t, "alpha", "Q8_0", "alphaQ8_0", day).Variant.ID + "/alpha-Q8_0.gguf", "metadata/1.root.json", "log/head.json"} {
		if !isLive(all, name) {
			t.Errorf("%s is not live", name)
		}
	}
	// A catalog that cannot be read: nothing is deleted.
	if _, err := s.Put(t.Context(), IndexName("beta"), []byte("{"), publish.Any); err != nil {
		t.Fatal(err)
	}
	if _, err := Collect(t.Context(), s, 24*time.Hour, later, false); err == nil || !strings.Contains(err.Error(), "nothing was deleted") {
		t.Errorf("got %v", err)
	}
}
