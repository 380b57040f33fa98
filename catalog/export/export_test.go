package export

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"gopkg.in/ini.v1"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/catalogtest"
	"github.com/modelpipe/modelpipe/internal/golden"
)

func export(t testing.TB, models []catalog.Model, names ...string) *Result {
	t.Helper()
	formats, err := Lookup(names...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Export(catalogtest.Sequence(models), Options{}, formats...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func file(t testing.TB, r *Result, name string) []byte {
	t.Helper()
	for _, f := range r.Files {
		if f.Name == name {
			return f.Data
		}
	}
	t.Fatalf("no file %s", name)
	return nil
}

// TestGolden holds the exports of the example to the committed files, and
// what is said about them.
func TestGolden(t *testing.T) {
	r := export(t, catalogtest.Example(t), "all")
	var said strings.Builder
	for _, x := range r.Skipped {
		fmt.Fprintf(&said, "skipped %s %s: %s\n", x.Format, x.Model, x.Reason)
	}
	for _, x := range r.Notes {
		fmt.Fprintf(&said, "note %s %s: %s\n", x.Format, x.Model, x.Reason)
	}
	golden.Check(t, "remarks.txt", said.String())
	for _, f := range r.Files {
		golden.Check(t, f.Name, string(f.Data))
	}
	again := export(t, catalogtest.Example(t), "all")
	if fmt.Sprint(again) == "" || len(again.Files) != len(r.Files) {
		t.Fatal("a second export has other files")
	}
	for i, f := range again.Files {
		if string(f.Data) != string(r.Files[i].Data) {
			t.Errorf("%s differs between two exports", f.Name)
		}
	}
}

// hostile is text with what the formats' own syntax, shells and pages react to.
const hostile = "</script><img src=x onerror=alert(1)> ${env.HOME} $(id) `id` '; rm -rf / #\n[evil]\r\nmodel = /etc/passwd\n- !!python/object:x\n: {a: b} & * ? | > % @ \u2028 \u202e \x00 \"quoted\" \\"

// hostileModel is the example's model with hostile text wherever the schema
// lets people write.
func hostileModel(t testing.TB) catalog.Model {
	t.Helper()
	m := catalogtest.Example(t)[2]
	m.DisplayName, m.Description = hostile, hostile
	m.License.SPDX = hostile
	m.License.Terms, m.License.Name, m.License.Attribution = hostile, hostile, hostile
	p := *m.Prompt
	p.Template, p.System, p.Stop = hostile, hostile, []string{hostile}
	m.Prompt = &p
	m.Serving.Endpoints = slices.Clone(m.Serving.Endpoints)
	m.Serving.Endpoints[0].Model = hostile
	return m
}

// TestHostileText holds that text comes out of each format's parser as it went
// in, and that it adds nothing beside itself.
func TestHostileText(t *testing.T) {
	calm, angry := export(t, catalogtest.Example(t)[2:], "all"), export(t, []catalog.Model{hostileModel(t)}, "all")
	if len(calm.Files) != len(angry.Files) {
		t.Fatalf("%d files, want %d", len(angry.Files), len(calm.Files))
	}
	for i, f := range angry.Files {
		t.Run(f.Name, func(t *testing.T) {
			shape, texts := parse(t, f)
			want, _ := parse(t, calm.Files[i])
			for path := range shape {
				// Text in the place of none, as a system message, is new.
				if !want[path] && !strings.Contains(path, "system_prompt") && !strings.Contains(path, "modelNameOverride") {
					t.Errorf("hostile text made %s", path)
				}
			}
			whole := 0
			for _, s := range texts {
				if s == hostile {
					whole++
				}
			}
			if slices.Contains([]string{"workers-ai/models.json", "openrouter/models.json", "localai/index.yaml", "gpustack/model-catalog.yaml"}, f.Name) && whole == 0 {
				t.Error("the description is not what it was")
			}
			if strings.HasSuffix(f.Name, ".json") && strings.Contains(string(f.Data), "</script>") {
				t.Error("HTML is not escaped in JSON")
			}
			if f.Name == "llama-swap/config.yaml" && strings.Contains(string(f.Data), "${env") {
				t.Error("llama-swap would put in a variable of its environment")
			}
		})
	}
}

// parse returns the paths of a document's keys and its texts.
func parse(t *testing.T, f File) (paths map[string]bool, texts []string) {
	t.Helper()
	paths = map[string]bool{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				paths[at+"/"+k] = true
				walk(at+"/"+k, e)
			}
		case []any:
			for i, e := range v {
				walk(at+"/"+fmt.Sprint(i), e)
			}
		case string:
			texts = append(texts, v)
		}
	}
	switch {
	case strings.HasSuffix(f.Name, ".json"):
		var v any
		if err := json.Unmarshal(f.Data, &v); err != nil {
			t.Fatal(err)
		}
		walk("", v)
	case strings.HasSuffix(f.Name, ".yaml"):
		d := yaml.NewDecoder(strings.NewReader(string(f.Data)))
		for i := 0; ; i++ {
			var v any
			if err := d.Decode(&v); err != nil {
				if err.Error() == "EOF" {
					break
				}
				t.Fatal(err)
			}
			walk(fmt.Sprint(i), v)
		}
	case strings.HasSuffix(f.Name, ".ini"):
		c, err := ini.Load(f.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.Sections() {
			for _, k := range s.Keys() {
				paths[s.Name()+"/"+k.Name()] = true
				texts = append(texts, k.Value())
			}
		}
	default:
		t.Fatalf("no parser for %s", f.Name)
	}
	return paths, texts
}

// TestPreset holds that what a preset cannot hold is refused.
func TestPreset(t *testing.T) {
	for _, root := range []string{"/srv/a;b", "/srv/a#b", "/srv/a\n[x]"} {
		formats, err := Lookup("llama-server")
		if err != nil {
			t.Fatal(err)
		}
		r, err := Export(catalogtest.Sequence(catalogtest.Example(t)), Options{Root: root}, formats...)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Skipped) != 3 || r.Models["llama-server"] != 0 {
			t.Errorf("root %q: %d models, skipped %v", root, r.Models["llama-server"], r.Skipped)
		}
	}
}

// TestExact holds prices to their digits: floats would write others.
func TestExact(t *testing.T) {
	for _, c := range []struct {
		amount catalog.Decimal
		per    int64
		units  int64
		want   string
	}{
		{"0.049", 1000000, 1, "0.000000049"},
		{"0.1", 1, 3, "0.3"}, // 0.30000000000000004 as a float
		{"123456789012345678.123456789012345678", 1, 1, "123456789012345678.123456789012345678"},
		{"0.000000000000000001", 1000000, 1, "0.000000000000000000000001"},
		{"5", 1, 1000000, "5000000"},
		{"0", 7, 1, "0"},
	} {
		got, err := perUnits(catalog.Price{Unit: "input_token", Amount: c.amount, Per: c.per}, c.units)
		if err != nil || string(got) != c.want {
			t.Errorf("%s per %d, of %d: %s, %v; want %s", c.amount, c.per, c.units, got, err, c.want)
		}
	}
	if _, err := perUnits(catalog.Price{Unit: "input_token", Amount: "1", Per: 3}, 1); err == nil || !strings.Contains(err.Error(), "1/3") {
		t.Errorf("a third: %v", err)
	}
	out, err := json.Marshal(map[string]exact{"x": "0.000000049"})
	if err != nil || string(out) != `{"x":0.000000049}` {
		t.Errorf("%s, %v", out, err)
	}
	text, err := yaml.Marshal(map[string]exact{"x": "0.000000049"})
	if err != nil || string(text) != "x: 0.000000049\n" {
		t.Errorf("%s, %v", text, err)
	}
}

// TestLeftOut holds that what a format cannot describe is left out and said.
func TestLeftOut(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(m *catalog.Model)
		want   map[string]string // reason by format; * for all
	}{
		{"withdrawn", func(m *catalog.Model) {
			for i := range m.Releases {
				m.Releases[i].State, m.Releases[i].Weight = catalog.StateRetired, 0
			}
		}, map[string]string{"*": "no release is active"}},
		{"no endpoint", func(m *catalog.Model) { m.Serving.Endpoints = nil }, map[string]string{
			"ai-gateway": "has no endpoint that serves an active release", "litellm": "has no endpoint that serves an active release",
			"envoy": "has no endpoint that serves an active release",
		}},
		{"task", func(m *catalog.Model) { m.Task = "protein-folding" }, map[string]string{
			"workers-ai": "Workers AI has no task protein-folding", "ollama": "Ollama has no task protein-folding",
			"litellm": "LiteLLM has no mode for task protein-folding", "llama-swap": "llama-server has no task protein-folding",
			"llama-server": "llama-server has no task protein-folding", "localai": "LocalAI's llama.cpp has no task protein-folding",
			"gpustack": "GPUStack's llama.cpp has no task protein-folding",
		}},
		{"currency", func(m *catalog.Model) {
			for i := range m.Serving.Prices {
				m.Serving.Prices[i].Currency = "EUR"
			}
		}, map[string]string{"openrouter": "prices are in EUR, want USD", "litellm": "prices are in EUR, want USD"}},
		{"endless price", func(m *catalog.Model) { m.Serving.Prices[0].Per = 3 }, map[string]string{
			"openrouter": "the price 49/3000 has no end in decimal digits", "litellm": "the price 49/3000 has no end in decimal digits",
			"workers-ai": "the price 49000/3 has no end in decimal digits",
		}},
		{"nowhere by http", func(m *catalog.Model) {
			for i := range m.Variants {
				m.Variants[i].Locations = m.Variants[i].Locations[:1]
			}
		}, map[string]string{"localai": "no variant can be had by http"}},
		{"address", func(m *catalog.Model) { m.Serving.Endpoints[0].URL = "ftp://x.example.com/v1" }, map[string]string{
			"envoy": `endpoint "ftp://x.example.com/v1" is not an http or https address`,
		}},
		{"long name", func(m *catalog.Model) { m.Slug = strings.Repeat("a", 100) }, map[string]string{
			"ai-gateway": "names of gateways have at most 64 characters",
		}},
		{"parts", func(m *catalog.Model) {
			for i := range m.Variants {
				f := m.Variants[i].Files[0]
				f.Path = "part-2.gguf"
				m.Variants[i].Files = append(m.Variants[i].Files, f)
			}
		}, map[string]string{"ollama": "Ollama does not pull a model in 2 parts"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := catalogtest.Example(t)[2]
			m.Pairings = nil
			c.change(&m)
			got := map[string]string{}
			for _, s := range export(t, []catalog.Model{m}, "all").Skipped {
				got[s.Format] = s.Reason
			}
			want := c.want
			if all, ok := want["*"]; ok {
				want = map[string]string{}
				for _, f := range Formats() {
					want[f.Name()] = all
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("left out %v\nwant %v", got, want)
			}
		})
	}
}

// TestPairingWithout holds that a pairing without one of its models is said.
func TestPairingWithout(t *testing.T) {
	r := export(t, catalogtest.Example(t)[2:], "litellm", "envoy", "ai-gateway", "openai")
	want := map[string]string{}
	for _, name := range []string{"litellm", "envoy", "ai-gateway", "openai"} {
		want[name] = "assistant: its model mistral-small-24b is left out"
	}
	got := map[string]string{}
	for _, s := range r.Skipped {
		got[s.Format] = s.Model + ": " + s.Reason
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestWeights holds the shares of backends to those of the releases.
func TestWeights(t *testing.T) {
	for _, c := range []struct {
		blue, green int64
		slots       []string
		want        []int64
	}{
		{100, 0, []string{""}, []int64{1}},
		{80, 20, []string{"blue", "green"}, []int64{4, 1}},
		{80, 20, []string{"blue", "blue", "green"}, []int64{2, 2, 1}},
		{80, 20, []string{"", "green"}, []int64{9, 1}}, // 80 + 20/2 and 20/2
		{99, 1, []string{"blue", "blue", "green", "green", "green"}, []int64{297, 297, 2, 2, 2}},
		{80, 20, []string{"blue"}, []int64{1}},
		{100, 0, []string{"blue", "green"}, []int64{1}},
	} {
		m := catalogtest.Example(t)[2]
		m.Releases = []catalog.Release{
			{Version: 2, Slot: catalog.Green, State: catalog.StateActive, Weight: c.green, Variants: m.Releases[0].Variants},
			{Version: 1, Slot: catalog.Blue, State: catalog.StateActive, Weight: c.blue, Variants: m.Releases[1].Variants},
		}
		m.Serving.Endpoints = nil
		for i, s := range c.slots {
			m.Serving.Endpoints = append(m.Serving.Endpoints, catalog.Endpoint{Name: fmt.Sprint(i), Provider: "openai", Slot: s})
		}
		all, err := backends(&job{result: &Result{}}, &m)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, b := range all {
			got = append(got, b.Weight)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("blue %d, green %d, endpoints %q: weights %v, want %v", c.blue, c.green, c.slots, got, c.want)
		}
	}
}

// TestRoutes walks every route of the AI Gateway: each output leads to an
// element that is there, the shares are those of the releases and the pairing,
// and no request goes round in a circle.
func TestRoutes(t *testing.T) {
	for _, fallback := range []string{"none", "heavy", "light", "either"} {
		models := catalogtest.Example(t)
		for i := range models {
			for k := range models[i].Pairings {
				models[i].Pairings[k].Fallback = fallback
			}
		}
		var gateways []struct {
			Routes []struct {
				Name     string
				Elements []struct {
					ID, Type   string
					Properties map[string]any
					Outputs    map[string]struct{ ElementID string }
				}
			}
		}
		if err := json.Unmarshal(file(t, export(t, models, "ai-gateway"), "ai-gateway/gateways.json"), &gateways); err != nil {
			t.Fatal(err)
		}
		shares := map[string]map[string]float64{}
		for _, g := range gateways {
			r := g.Routes[0]
			index := map[string]int{}
			for i, e := range r.Elements {
				if _, twice := index[e.ID]; twice {
					t.Errorf("route %s: element %s is there twice", r.Name, e.ID)
				}
				index[e.ID] = i
			}
			shares[r.Name] = map[string]float64{}
			seen := map[string]bool{}
			var walk func(id string, share float64, failing bool, depth int)
			walk = func(id string, share float64, failing bool, depth int) {
				i, ok := index[id]
				if !ok {
					t.Fatalf("route %s: no element %s", r.Name, id)
				}
				if depth > len(r.Elements) {
					t.Fatalf("route %s goes round in a circle at %s", r.Name, id)
				}
				seen[id] = true
				e := r.Elements[i]
				rest := 1.0
				for name := range e.Outputs {
					if p, isShare := strings.CutSuffix(name, "%"); isShare {
						var x float64
						fmt.Sscan(p, &x)
						rest -= x / 100
					}
				}
				if e.Type == "model" && !failing {
					shares[r.Name][fmt.Sprint(e.Properties["model"], " at ", e.Properties["provider"])] += share
				}
				for name, o := range e.Outputs {
					switch p, isShare := strings.CutSuffix(name, "%"); {
					case isShare:
						var x float64
						fmt.Sscan(p, &x)
						walk(o.ElementID, share*x/100, failing, depth+1)
					case name == "else":
						walk(o.ElementID, share*rest, failing, depth+1)
					case name == "fallback", name == "true":
						walk(o.ElementID, share, true, depth+1)
					default:
						walk(o.ElementID, share, failing, depth+1)
					}
				}
			}
			walk("start", 1, false, 0)
			for id := range index {
				if !seen[id] {
					t.Errorf("route %s: nothing leads to %s", r.Name, id)
				}
			}
		}
		want := map[string]map[string]float64{
			"qwen3-0-6b": {"qwen3-0.6b at custom-qwen3-0-6b-edge-blue": 0.8, "qwen3-0.6b at custom-qwen3-0-6b-edge-green": 0.2},
			"assistant":  {"qwen3-0.6b at custom-qwen3-0-6b-edge-blue": 0.64, "qwen3-0.6b at custom-qwen3-0-6b-edge-green": 0.16, "mistral-small-3.2 at custom-mistral-small-24b-core": 0.2},
		}
		for name, w := range want {
			for model, share := range w {
				if got := shares[name][model]; got < share-1e-9 || got > share+1e-9 {
					t.Errorf("fallback %s, route %s: %s gets %v, want %v (all: %v)", fallback, name, model, got, share, shares[name])
				}
			}
		}
	}
}

func TestLookup(t *testing.T) {
	_, err := Lookup("lite-llm")
	if err == nil || !strings.HasPrefix(err.Error(), `unknown format "lite-llm"; did you mean "litellm"? want one of all, ai-gateway,`) {
		t.Error(err)
	}
	_, err = Lookup(strings.Repeat("x", 1<<20))
	if err == nil || len(err.Error()) > 500 {
		t.Error("a long name makes a long error")
	}
	if got := len(Formats()); got != 11 {
		t.Errorf("%d formats, want 11", got)
	}
}
