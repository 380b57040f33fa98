package catalog

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

func build(t testing.TB, c *Curation, s publish.Store) *BuildResult {
	t.Helper()
	r, err := Build(t.Context(), BuildOptions{Curation: c, Store: s})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t testing.TB, s publish.Store) *Reader {
	t.Helper()
	r, err := OpenChannel(t.Context(), FromStore(s), "stable")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var two = modelTOML("alpha", `aliases = ["first"]`) + modelTOML("beta", "") + `
[[pairing]]
name = "pair"
light = "alpha"
heavy = "beta"
light_share = 70
fallback = "heavy"
[[mirror]]
kind = "http"
uri = "https://models.example.com"
first = true
`

func TestBuild(t *testing.T) {
	_, s := shop(t)
	r := build(t, curation(t, two), s)
	if c := r.Channels[0]; c.Models != 2 || !c.Changed || c.Objects != 2 || len(r.Skipped) != 0 {
		t.Fatalf("got %+v", r)
	}
	reader := open(t, s)
	for _, name := range []string{"alpha", "first"} {
		m, err := reader.Lookup(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if m.Slug != "alpha" || m.Architecture != "llama" || m.Parameters.Total != 96*256+256 || m.Prompt.EOS != "</s>" || m.ContextWindow != 2048 || m.Serving.ContextTokens != 2048 {
			t.Errorf("got %+v", m)
		}
		if len(m.Variants) != 2 || m.Default().Name != "Q8_0" || m.Default().Quality.KLD.Mean != 0.04 || m.Default().Locations[0].Kind != KindHTTP {
			t.Errorf("got %+v", m.Variants)
		}
		// 4 layers, 2 heads of 32 for keys and for values, 2 bytes.
		if got := m.Default().Memory.PerToken; got != 4*2*(32+32)*2 {
			t.Errorf("cache of a token is %d bytes", got)
		}
		if len(m.Pairings) != 1 || m.Pairings[0].LightShare != 70 {
			t.Errorf("got %+v", m.Pairings)
		}
	}
	if _, err := reader.Lookup(t.Context(), "gamma"); !errors.Is(err, ErrNoModel) {
		t.Errorf("got %v", err)
	}
	whole, err := reader.Catalog(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	data, err := Encode(whole)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := compileSchema(t, Schema()).Validate(doc); err != nil {
		t.Error(err)
	}
	// Again: nothing is written. On another machine: the same bytes.
	if again := build(t, curation(t, two), s); again.Channels[0].Changed || again.Channels[0].Objects != 0 || again.Channels[0].Index != r.Channels[0].Index {
		t.Errorf("got %+v", again.Channels[0])
	}
	_, other := shop(t)
	if o := build(t, curation(t, two), other); o.Channels[0].Index != r.Channels[0].Index {
		t.Errorf("index %s, then %s", r.Channels[0].Index, o.Channels[0].Index)
	}
}

func TestBuildSkips(t *testing.T) {
	_, s := shop(t)
	o := operator(s, day)
	bad := strings.ReplaceAll(string(reportOf("g")), `"pass":true`, `"pass":false`)
	if err := o.PutRecord(t.Context(), record(t, "gamma", "Q8_0", "g", day), []byte(bad), nil); err != nil {
		t.Fatal(err)
	}
	r := build(t, curation(t, two+modelTOML("gamma", "")+modelTOML("delta", "")), s)
	var got []string
	for _, x := range r.Skipped {
		got = append(got, x.Model+" "+x.Variant+": "+x.Reason)
	}
	want := []string{"delta : nothing was published", "gamma : no release in this channel", "gamma Q4_K_M: was not published", "gamma Q8_0: a gate did not hold"}
	if !slices.Equal(got, want) || r.Channels[0].Models != 2 {
		t.Errorf("got %q", got)
	}
}

func TestReleases(t *testing.T) {
	_, s := shop(t)
	ctx := t.Context()
	id := func(r *Record) string { return r.Variant.ID }
	v1 := record(t, "alpha", "Q8_0", "alphaQ8_0", day)
	v2 := record(t, "alpha", "Q8_0", "newer", day.Add(time.Hour))
	o := operator(s, day)
	if err := o.PutRecord(ctx, v2, nil, nil); err != nil {
		t.Fatal(err)
	}
	first, changed, err := o.Publish(ctx, "alpha", "stable", []string{id(v1)}, "")
	if err != nil || !changed || first.State != StateActive || first.Slot != Blue || first.Weight != 100 {
		t.Fatalf("got %+v, %v", first, err)
	}
	if _, changed, err = o.Publish(ctx, "alpha", "stable", []string{id(v1)}, ""); err != nil || changed {
		t.Fatalf("the same release again: %v, %v", changed, err)
	}
	o = operator(s, day.Add(2*time.Hour))
	second, _, err := o.Publish(ctx, "alpha", "stable", []string{id(v2)}, "newer")
	if err != nil || second.State != StateCandidate || second.Slot != Green || second.Supersedes != 1 {
		t.Fatalf("got %+v, %v", second, err)
	}
	states := func() string {
		t.Helper()
		l, err := ReadLedger(ctx, s, "alpha")
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range l.In("stable") {
			out = append(out, strings.Join([]string{r.Slot, r.State, shortest(float64(r.Weight))}, " "))
		}
		build(t, curation(t, two), s)
		m, err := open(t, s).Lookup(ctx, "alpha")
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
		return strings.Join(out, ", ")
	}
	step := func(want string, err error) {
		t.Helper()
		if got := states(); err != nil || got != want {
			t.Fatalf("got %s (%v), want %s", got, err, want)
		}
	}
	step("green candidate 0, blue active 100", nil)
	step("green active 20, blue active 80", o.Promote(ctx, "alpha", "stable", 2, 20))
	step("green active 100, blue retired 0", o.Promote(ctx, "alpha", "stable", 2, 100))
	next, err := o.Withdraw(ctx, "alpha", "stable", 2, "answers in verse")
	if next != 1 {
		t.Errorf("release %d takes over", next)
	}
	step("green withdrawn 0, blue active 100", err)
	if err := o.Promote(ctx, "alpha", "stable", 2, 100); err == nil || !strings.Contains(err.Error(), `was withdrawn: "answers in verse"`) {
		t.Errorf("got %v", err)
	}
	_, err = o.Withdraw(ctx, "alpha", "stable", 1, "too")
	step("green withdrawn 0, blue withdrawn 0", err)
	m, err := open(t, s).Lookup(ctx, "alpha")
	if err != nil || m.Current() != nil || len(m.Variants) != 0 || m.Releases[0].Withdrawn.Reason != "answers in verse" {
		t.Errorf("got %+v, %v", m, err)
	}
	// All of it is in the log.
	var actions []string
	if err := NewLog(s).Entries(ctx, func(e *LogEntry) bool { actions = append(actions, e.Action); return true }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"withdraw", "withdraw", "promote", "promote", "publish", "publish"}; !slices.Equal(actions, want) {
		t.Errorf("got %q", actions)
	}
	// A clock that is a year behind changes nothing.
	late := operator(s, day.AddDate(-1, 0, 0))
	if _, _, err := late.Publish(ctx, "alpha", "stable", []string{id(v1)}, ""); !errors.Is(err, ErrClock) {
		t.Errorf("got %v", err)
	}
}

// TestRecordTwice: what is there already is left as it is, and a run that was
// killed before its record is done again.
func TestRecordTwice(t *testing.T) {
	_, s := shop(t)
	ctx := t.Context()
	o := operator(s, day)
	if err := o.PutRecord(ctx, record(t, "alpha", "Q8_0", "alphaQ8_0", day.Add(time.Hour)), reportOf("alphaQ8_0"), []byte("{}")); err != nil {
		t.Error(err)
	}
	other := func(content string) []byte {
		return bytes.Replace(reportOf(content), []byte("0.92"), []byte("0.93"), 1)
	}
	if err := o.PutRecord(ctx, record(t, "alpha", "Q8_0", "alphaQ8_0", day), other("alphaQ8_0"), nil); err != nil {
		t.Error(err)
	}
	build(t, curation(t, two), s)
	if m, err := open(t, s).Lookup(ctx, "alpha"); err != nil || *m.Default().Quality.Top1 != 0.92 {
		t.Errorf("got %+v, %v", m, err)
	}
	liar := record(t, "alpha", "Q8_0", "alphaQ8_0", day)
	liar.Parameters++
	if err := o.PutRecord(ctx, liar, nil, nil); err == nil || !strings.Contains(err.Error(), "says something else of the same file") {
		t.Errorf("got %v", err)
	}
	killed := operator(publishtest.Racing{Store: s, Before: func(name string) {
		if strings.HasSuffix(name, RecordName) {
			panic("killed")
		}
	}}, day)
	func() {
		defer func() { recover() }()
		killed.PutRecord(ctx, record(t, "gamma", "Q8_0", "g", day), reportOf("g"), nil)
	}()
	if err := o.PutRecord(ctx, record(t, "gamma", "Q8_0", "g", day), other("g"), nil); err != nil {
		t.Error(err)
	}
	build(t, curation(t, modelTOML("gamma", "")), s)
	if m, err := open(t, s).Lookup(ctx, "gamma"); err != nil || *m.Default().Quality.Top1 != 0.93 {
		t.Errorf("got %+v, %v", m, err)
	}
}

// TestBrokenModel: one model that cannot be made stops no other; it stays as it
// was, unless what it serves was withdrawn.
func TestBrokenModel(t *testing.T) {
	dir, s := shop(t)
	ctx := t.Context()
	id := record(t, "alpha", "Q8_0", "alphaQ8_0", day).Variant.ID
	if _, _, err := operator(s, day).Publish(ctx, "alpha", "stable", []string{id}, ""); err != nil {
		t.Fatal(err)
	}
	build(t, curation(t, two), s)
	broken := strings.Replace(two, "aliases =", "template_has = [\"<|im_start|>\"]\naliases =", 1)
	r := build(t, curation(t, strings.ReplaceAll(broken, "A small model.", "Another text.")), s)
	if len(r.Skipped) != 1 || !r.Skipped[0].Failed || !r.Skipped[0].Kept || r.Skipped[0].Reason != `the chat template does not have "<|im_start|>", as template_has wants` {
		t.Errorf("got %+v", r.Skipped)
	}
	for slug, want := range map[string]string{"alpha": "A small model.", "beta": "Another text."} {
		if m, err := open(t, s).Lookup(ctx, slug); err != nil || m.Description != want {
			t.Errorf("%s: got %+v, %v", slug, m, err)
		}
	}
	if _, err := operator(s, day).Withdraw(ctx, "alpha", "stable", 1, "bad"); err != nil {
		t.Fatal(err)
	}
	r = build(t, curation(t, broken), s)
	if len(r.Skipped) != 1 || r.Skipped[0].Kept {
		t.Errorf("got %+v", r.Skipped)
	}
	if _, err := open(t, s).Lookup(ctx, "alpha"); !errors.Is(err, ErrNoModel) {
		t.Errorf("a withdrawn release is in the catalog: %v", err)
	}
	// A record that somebody has broken.
	name := filepath.Join(dir, "models", "beta", record(t, "beta", "Q8_0", "betaQ8_0", day).Variant.ID, RecordName)
	if err := os.WriteFile(name, []byte(`{"$schema":"other"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	r = build(t, curation(t, two), s)
	if len(r.Skipped) != 1 || r.Skipped[0].Model != "beta" || !r.Skipped[0].Kept || !strings.Contains(r.Skipped[0].Reason, "record.json: record: $schema") {
		t.Errorf("got %+v", r.Skipped)
	}
}

func TestTwoBuilders(t *testing.T) {
	_, s := shop(t)
	build(t, curation(t, two), s)
	index := func() []byte {
		data, _, err := s.Get(t.Context(), IndexName("stable"), MaxIndex)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var winner []byte
	slow := publishtest.Racing{Store: s, Before: func(name string) {
		if name == IndexName("stable") && winner == nil {
			build(t, curation(t, strings.Replace(two, `"Model"`, `"Winner"`, 1)), s)
			winner = index()
		}
	}}
	_, err := Build(t.Context(), BuildOptions{Curation: curation(t, strings.Replace(two, `"Model"`, `"Loser"`, 1)), Store: slow})
	if !errors.Is(err, ErrRace) {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(index(), winner) {
		t.Error("the loser has changed the channel")
	}
	// Two operators at once: the loser is told, and the log says so.
	o := operator(publishtest.Racing{Store: s, Before: func(name string) {
		if name == LedgerName("alpha") {
			if _, _, err := operator(s, day).Publish(t.Context(), "alpha", "stable", []string{record(t, "alpha", "Q8_0", "alphaQ8_0", day).Variant.ID}, ""); err != nil {
				t.Error(err)
			}
		}
	}}, day)
	_, _, err = o.Publish(t.Context(), "alpha", "stable", []string{record(t, "alpha", "Q4_K_M", "alphaQ4_K_M", day).Variant.ID}, "")
	if !errors.Is(err, publish.ErrChanged) || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("got %v", err)
	}
	var last *LogEntry
	if err := NewLog(s).Entries(t.Context(), func(e *LogEntry) bool { last = e; return false }); err != nil || last.Action != ActionAbandon || last.Refers != 1 {
		t.Errorf("got %+v, %v", last, err)
	}
}

// TestNothingIsDeleted: what a reader of the catalog before has in its hands
// is there after any number of builds.
func TestNothingIsDeleted(t *testing.T) {
	dir, s := shop(t)
	build(t, curation(t, two), s)
	before := open(t, s)
	build(t, curation(t, strings.Replace(two, "A small model.", "Another text.", 1)), s)
	if _, err := before.Lookup(t.Context(), "alpha"); err != nil {
		t.Error(err)
	}
	if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(name, ".partial") {
			t.Errorf("%s is left", name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTamperedObjects(t *testing.T) {
	dir, s := shop(t)
	build(t, curation(t, two), s)
	r := open(t, s)
	var ref Ref
	for x, err := range r.Refs(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ref = x
	}
	name := filepath.Join(dir, filepath.FromSlash(ref.Name()))
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		data []byte
		want string
	}{
		"swapped":   {bytes.Replace(data, []byte("A small"), []byte("A large"), 1), "with digest"},
		"truncated": {data[:len(data)-1], "with digest"},
		"oversized": {append(bytes.Clone(data), make([]byte, 1<<20)...), "larger than it may be"},
	} {
		if err := os.WriteFile(name, c.data, 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, s).Lookup(t.Context(), "alpha"); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), ref.Name()) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
