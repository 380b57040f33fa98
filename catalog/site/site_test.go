package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/catalogtest"
	"github.com/modelpipe/modelpipe/internal/golden"
)

func write(t testing.TB, models []catalog.Model, o Options) (string, Stats) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "site")
	s, err := Write(context.Background(), dir, "stable", catalogtest.Sequence(models), o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func read(t testing.TB, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// hostile is text with what HTML, scripts, shells and Python react to.
const hostile = "</script><img src=x onerror=alert(1)> ${HOME} $(touch pwned) `touch pwned` '; touch pwned # \\\nSUMS\n\"\"\" ''' {{.}} {% x %} \u2028 \u202e </pre></textarea>"

// hostileModel is the example's model with hostile text wherever the schema
// lets people write.
func hostileModel(t testing.TB) catalog.Model {
	t.Helper()
	m := catalogtest.Example(t)[2]
	m.Slug = "angry"
	m.DisplayName, m.Description = hostile, hostile
	m.License.SPDX, m.License.Name, m.License.Terms, m.License.Attribution = hostile, hostile, hostile, hostile
	p := *m.Prompt
	p.Template, p.System, p.Stop = hostile, hostile, []string{hostile}
	p.Reasoning = &catalog.ReasoningTag{Start: hostile, End: hostile}
	m.Prompt = &p
	m.Serving.Endpoints = append([]catalog.Endpoint{{Name: "w", Provider: "workers-ai", Model: hostile}}, m.Serving.Endpoints...)
	m.Releases = slices.Clone(m.Releases)
	m.Releases[0].Notes = hostile
	return m
}

// TestSnippets holds what the pages tell people to type to committed files.
func TestSnippets(t *testing.T) {
	for _, m := range catalogtest.Example(t) {
		for _, base := range []string{"", "https://gateway.example.com/v1"} {
			p, err := newPage("stable", &m, Options{Title: "Models", BaseURL: base})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, target := range p.Targets {
				if base != "" && target.ID != "openai" {
					continue
				}
				fmt.Fprintf(&b, "==== %s: %s\n", target.Title, target.About)
				for _, block := range target.Blocks {
					fmt.Fprintf(&b, "---- %s (%s)\n%s\n", block.Title, block.Language, block.Text)
				}
			}
			name := m.Slug
			if base != "" {
				name += "-gateway"
			}
			golden.Check(t, "snippets/"+name+".txt", b.String())
		}
	}
}

// TestSnippetsParse holds every snippet to the grammar of its language, for
// the example and for hostile text.
func TestSnippetsParse(t *testing.T) {
	texts := map[string][]string{} // by language
	for _, m := range append(catalogtest.Example(t), hostileModel(t)) {
		for _, base := range []string{"", "https://gateway.example.com/v1"} {
			p, err := newPage("stable", &m, Options{BaseURL: base})
			if err != nil {
				t.Fatal(err)
			}
			for _, target := range p.Targets {
				for _, b := range target.Blocks {
					texts[b.Language] = append(texts[b.Language], b.Text)
					if strings.ContainsFunc(b.Text, disguises) {
						t.Errorf("%s, %s, %s does not look as it is: %q", m.Slug, target.Title, b.Title, b.Text)
					}
				}
			}
		}
	}
	for _, text := range texts["json"] {
		if !json.Valid([]byte(text)) {
			t.Errorf("is not JSON:\n%s", text)
		}
	}
	parse := func(command *exec.Cmd, what, input string) {
		if _, err := exec.LookPath(command.Args[0]); err != nil {
			t.Logf("no %s: %s is not checked", command.Args[0], what)
			return
		}
		command.Stdin = strings.NewReader(input)
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	for _, text := range texts["sh"] {
		parse(exec.Command("sh", "-n"), text, text)
	}
	all := func(language string) string {
		list, err := json.Marshal(texts[language])
		if err != nil || len(texts[language]) < 4 {
			t.Fatalf("%d snippets of %s, %v", len(texts[language]), language, err)
		}
		return string(list)
	}
	parse(exec.Command("python3", "-c", `
import ast, json, sys
for text in json.load(sys.stdin):
    ast.parse(text)`), "Python", all("python"))
	parse(exec.Command("node", "--no-warnings", "--experimental-vm-modules", "-e", `
const vm = require("vm");
for (const text of JSON.parse(require("fs").readFileSync(0))) new vm.SourceTextModule(text);`), "JavaScript", all("js"))
}

// TestSnippetsRun runs the shell snippets of hostile text with commands that
// print what they are given: nothing else runs, and requests hold the text as
// it was.
func TestSnippetsRun(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no sh")
	}
	m := hostileModel(t)
	template := strings.Map(func(r rune) rune {
		if disguises(r) {
			return -1
		}
		return r
	}, hostile)
	m.Prompt.Template = template
	p, err := newPage("stable", &m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, target := range p.Targets {
		for _, b := range target.Blocks {
			if b.Language != "sh" {
				continue
			}
			dir := t.TempDir()
			bin := filepath.Join(dir, "bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"curl", "ollama", "docker", "llama-server", "npm", "npx", "sha256sum"} {
				if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			c := exec.Command("sh", "-c", b.Text)
			c.Dir = dir
			c.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "ACCOUNT_ID=account", "API_TOKEN=token", "HOME=" + dir}
			out, err := c.CombinedOutput()
			if err != nil {
				t.Fatalf("%s, %s: %v\n%s\n%s", target.Title, b.Title, err, out, b.Text)
			}
			filepath.WalkDir(dir, func(name string, _ fs.DirEntry, _ error) error {
				if filepath.Base(name) == "pwned" {
					t.Errorf("%s, %s ran a command of the hostile text:\n%s", target.Title, b.Title, b.Text)
				}
				return nil
			})
			if b.Title == "The model's prompt template" {
				if got := read(t, dir, "template.jinja"); got != template {
					t.Errorf("the template is %q, want %q", got, template)
				}
			}
			args := strings.Split(string(out), "\x00")
			i := slices.Index(args, "-d")
			if i < 0 {
				continue
			}
			ran++
			var body struct {
				Model    string
				Messages []message
				Stop     []string
				Options  struct{ Stop []string }
			}
			if err := json.Unmarshal([]byte(args[i+1]), &body); err != nil {
				t.Fatalf("%s, %s: %v\n%s", target.Title, b.Title, err, args[i+1])
			}
			if len(body.Messages) != 2 || body.Messages[0].Content != hostile {
				t.Errorf("%s, %s: messages are %q", target.Title, b.Title, body.Messages)
			}
			if stop := append(body.Stop, body.Options.Stop...); target.ID != "rest" && !slices.Equal(stop, []string{hostile}) {
				t.Errorf("%s, %s: stop is %q", target.Title, b.Title, stop)
			}
			if strings.Contains(args[1], "cloudflare") && !strings.HasPrefix(strings.TrimPrefix(args[1], "-N\x00"), "https://api.cloudflare.com/client/v4/accounts/account/ai/") {
				t.Errorf("%s, %s asks %s", target.Title, b.Title, args[1])
			}
		}
	}
	if ran < 5 {
		t.Errorf("%d requests ran", ran)
	}
}

// TestTargets holds that a page shows no way that does not run the model.
func TestTargets(t *testing.T) {
	ids := func(change func(m *catalog.Model)) string {
		m := catalogtest.Example(t)[2]
		change(&m)
		p, err := newPage("stable", &m, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, target := range p.Targets {
			out = append(out, target.ID)
		}
		return strings.Join(out, " ")
	}
	only := func(kinds ...string) func(m *catalog.Model) {
		return func(m *catalog.Model) {
			for i := range m.Variants {
				m.Variants[i].Locations = slices.DeleteFunc(m.Variants[i].Locations, func(l catalog.Location) bool { return !slices.Contains(kinds, l.Kind) })
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(m *catalog.Model)
		want   string
	}{
		{"chat", func(*catalog.Model) {}, "rest worker openai llamacpp ollama docker"},
		{"embeddings", func(m *catalog.Model) {
			*m = catalogtest.Example(t)[0]
		}, "rest worker openai llamacpp ollama docker"},
		{"reranking", func(m *catalog.Model) { m.Task = catalog.Reranking }, "rest worker llamacpp"},
		{"speech", func(m *catalog.Model) { m.Task = catalog.SpeechRecognition }, "rest"},
		{"a task of its own", func(m *catalog.Model) { m.Task = "protein-folding" }, ""},
		{"store only", only("store"), "rest worker openai"},
		{"http only", only("http"), "rest worker openai llamacpp ollama"},
		{"withdrawn", func(m *catalog.Model) {
			for i := range m.Releases {
				m.Releases[i].State, m.Releases[i].Weight = catalog.StateRetired, 0
			}
		}, ""},
	} {
		if got := ids(c.change); got != c.want {
			t.Errorf("%s: shows %q, want %q", c.name, got, c.want)
		}
	}
}

// TestModelfile holds the Modelfile to one that can be read off, and to none
// where its quotes would break.
func TestModelfile(t *testing.T) {
	m := catalogtest.Example(t)[2]
	p, err := newPage("stable", &m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.Prompt.System = "You say \"hi\" often.\nAlways."
	got, ok := p.modelfile()
	want := "FROM ./qwen3-0.6b-Q4_K_M.gguf\nPARAMETER num_ctx 8192\nPARAMETER num_predict 2048\nPARAMETER temperature 0.6\nPARAMETER top_p 0.95\n" +
		"PARAMETER top_k 20\nPARAMETER min_p 0\nPARAMETER stop \"<|im_end|>\"\nPARAMETER stop \"<|endoftext|>\"\nSYSTEM \"\"\"You say \"hi\" often.\nAlways.\"\"\""
	if !ok || got != want {
		t.Errorf("%v\n%s\nwant\n%s", ok, got, want)
	}
	for _, system := range []string{`a """ b`, `ends with "`, "turns \u202e around"} {
		m.Prompt.System = system
		if got, ok := p.modelfile(); ok {
			t.Errorf("%q made\n%s", system, got)
		}
	}
	m.Prompt.System, m.Prompt.Stop = "", []string{"a\nFROM /etc/passwd"}
	if got, ok := p.modelfile(); ok {
		t.Errorf("a line break made\n%s", got)
	}
}

// TestCost holds the calculator to prices that people can check.
func TestCost(t *testing.T) {
	price := func(unit, amount string, per int64) catalog.Price {
		return catalog.Price{Unit: unit, Per: per, Amount: catalog.Decimal(amount), Currency: "USD", Tier: "standard"}
	}
	for _, c := range []struct {
		rates Rates
		usage Usage
		want  string
	}{
		// 1,000,000 tokens in, 100,000 out
		{Rates{"input_token": price("input_token", "0.049", 1e6), "output_token": price("output_token", "0.19", 1e6)}, ExampleUsage, "0.068"},
		{Rates{"input_token": price("input_token", "0.35", 1e6), "output_token": price("output_token", "0.56", 1e6)}, ExampleUsage, "0.406"},
		{Rates{"input_token": price("input_token", "1", 3)}, Usage{Requests: 1, Input: 1}, "0.333333"},
		{Rates{"input_token": price("input_token", "2", 3)}, Usage{Requests: 1, Input: 1}, "0.666667"},
		{Rates{"input_token": price("input_token", "0.0000005", 1)}, Usage{Requests: 1, Input: 1}, "0.000001"}, // half up
		{Rates{"input_token": price("input_token", "0.10", 1)}, Usage{Requests: 3, Input: 1}, "0.30"},
		{Rates{"request": price("request", "0.01", 1)}, Usage{Requests: 1000}, "10.00"},
		{Rates{"input_token": price("input_token", "1", 1), "cached_input_token": price("cached_input_token", "0.1", 1)}, Usage{Requests: 1, Input: 10, Cached: 4}, "6.40"},
		{Rates{"input_token": price("input_token", "1", 1)}, Usage{Requests: 1, Input: 10, Cached: 4}, "10.00"},
		{Rates{"input_token": price("input_token", "1", 1), "cached_input_token": price("cached_input_token", "0.1", 1)}, Usage{Requests: 1, Input: 10, Cached: 99}, "1.00"},
		{Rates{}, ExampleUsage, "0.00"},
	} {
		got, _, err := c.rates.Cost(c.usage)
		if err != nil || Money(got) != c.want {
			t.Errorf("%v of %v: %s, %v; want %s", c.usage, c.rates, Money(got), err, c.want)
		}
	}
	euro := price("output_token", "1", 1)
	euro.Currency = "EUR"
	if _, _, err := (Rates{"input_token": price("input_token", "1", 1), "output_token": euro}).Cost(ExampleUsage); err == nil {
		t.Error("prices in two currencies were added")
	}
}

// TestScript holds the script's arithmetic and texts to those of this package.
func TestScript(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no node")
	}
	r := rand.New(rand.NewPCG(1, 2))
	decimals := func() string {
		s := fmt.Sprint(r.Uint64N(uint64(1) << r.UintN(50)))
		if digits := r.IntN(19); digits > 0 {
			s += "."
			for range digits {
				s += fmt.Sprint(r.IntN(10))
			}
		}
		return s
	}
	type test struct {
		Prices    map[string]TierRate `json:"prices"`
		Usage     map[string]string   `json:"usage"`
		Number    int64               `json:"number"`
		Threshold string              `json:"threshold"`
	}
	type answer struct {
		Day, Month, Bytes, Count, Tokens string
		Over                             bool
	}
	var tests []test
	var want []answer
	for range 2000 {
		rates, shown := Rates{}, map[string]TierRate{}
		for _, unit := range []string{"input_token", "output_token", "cached_input_token", "request"} {
			if r.IntN(4) > 0 {
				p := catalog.Price{Unit: unit, Per: r.Int64N(int64(1)<<r.UintN(40)) + 1, Amount: catalog.Decimal(decimals()), Currency: "USD"}
				rates[unit], shown[unit] = p, TierRate{string(p.Amount), fmt.Sprint(p.Per)}
			}
		}
		any := func() int64 { return r.Int64N(int64(1) << r.UintN(49)) }
		u := Usage{any(), any(), any(), any()}
		day, _, err := rates.Cost(u)
		if err != nil {
			t.Fatal(err)
		}
		threshold, n := decimals(), any()
		limit, _ := new(big.Rat).SetString(threshold)
		tests = append(tests, test{shown, map[string]string{"requests": fmt.Sprint(u.Requests), "input": fmt.Sprint(u.Input), "cached": fmt.Sprint(u.Cached), "output": fmt.Sprint(u.Output)}, n, threshold})
		a := answer{Day: Money(day), Over: day.Cmp(limit) >= 0, Bytes: bytesText(n), Count: countText(n), Tokens: tokensText(n)}
		a.Month = Money(new(big.Rat).Mul(day, big.NewRat(DaysPerMonth, 1)))
		want = append(want, a)
	}
	input, err := json.Marshal(tests)
	if err != nil {
		t.Fatal(err)
	}
	const program = `
const s = require(process.argv[1]);
const out = JSON.parse(require("fs").readFileSync(0)).map((t) => {
  const usage = Object.fromEntries(Object.entries(t.usage).map(([k, v]) => [k, s.number(v)]));
  const day = s.dayCost(t.prices, usage);
  return { Day: s.money(day), Month: s.money(s.times(day, 30n)), Over: s.atLeast(day, s.fraction(t.threshold)),
    Bytes: s.bytesText(t.number), Count: s.countText(t.number), Tokens: s.tokensText(t.number) };
});
console.log(JSON.stringify(out));`
	script, err := filepath.Abs("assets/site.js")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "-e", program, script)
	cmd.Stdin = bytes.NewReader(input)
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []answer
	if err := json.Unmarshal(output, &got); err != nil {
		t.Fatal(err)
	}
	bad := 0
	for i := range want {
		if got[i] != want[i] {
			if bad++; bad < 5 {
				t.Errorf("%+v:\nscript %+v\nwant   %+v", tests[i], got[i], want[i])
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d differ", bad, len(want))
	}
}

var (
	quotedValue = regexp.MustCompile(`"[^"]*"`)
	inlineCode  = regexp.MustCompile(`<[^>]*\s(style|on[a-z]+)=`)
	references  = regexp.MustCompile(`<(a|link|script|img)\b[^>]*\s(?:href|src)="([^"]*)"`)
	remote      = regexp.MustCompile(`<(?:link|script|img|iframe|source|object|embed)\b[^>]*\s(?:href|src|data)="(?:https?:)?//`)
)

// TestPages holds every page to the policy that it sends, and its links to
// files that are there; hostile text adds no element.
func TestPages(t *testing.T) {
	models := append([]catalog.Model{hostileModel(t)}, catalogtest.Example(t)...)
	dir, stats := write(t, models, Options{Title: hostile})
	files := 0
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		rel, _ := filepath.Rel(dir, name)
		rel = filepath.ToSlash(rel)
		if path.Ext(rel) != ".html" {
			return nil
		}
		text := read(t, dir, rel)
		if !strings.Contains(text, `content="default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"`) {
			t.Errorf("%s has no policy", rel)
		}
		if m := inlineCode.FindString(quotedValue.ReplaceAllString(text, `""`)); m != "" {
			t.Errorf("%s has what its policy forbids: %s", rel, m)
		}
		if m := remote.FindString(text); m != "" {
			t.Errorf("%s loads from elsewhere: %s", rel, m)
		}
		scripts := 1 // site.js
		if rel == "index.html" || strings.HasPrefix(rel, "models/") {
			scripts = 2 // and data
		}
		if n := strings.Count(text, "<script"); n != scripts || strings.Count(text, "</script") != scripts || strings.Contains(text, "<img") {
			t.Errorf("%s has %d scripts, want %d", rel, n, scripts)
		}
		for _, m := range references.FindAllStringSubmatch(text, -1) {
			target := m[2]
			if strings.HasPrefix(target, "#") {
				if !strings.Contains(text, `id="`+target[1:]+`"`) {
					t.Errorf("%s: nothing is called %s", rel, target)
				}
				continue
			}
			if strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(dir, path.Join(path.Dir(rel), target))); err != nil {
				t.Errorf("%s: %s is not there", rel, target)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files != stats.Files || stats.Models != 4 {
		t.Errorf("wrote %+v, found %d files", stats, files)
	}
	var entry struct {
		Model catalog.Model
		Costs Costs
	}
	if err := json.Unmarshal([]byte(read(t, dir, "models/qwen3-0.6b.json")), &entry); err != nil {
		t.Fatal(err)
	}
	if a := entry.Costs.Alarm; a == nil || a.Threshold != "4.00" || a.Period != "day" || entry.Costs.Tiers[0].Day != "0.068" || entry.Costs.Tiers[1].Month != "1.035" {
		t.Errorf("the entry's costs are %+v", entry.Costs)
	}
	if entry.Model.Slug != "qwen3-0.6b" {
		t.Errorf("the entry is of %s", entry.Model.Slug)
	}
	var angry struct{ Model catalog.Model }
	if err := json.Unmarshal([]byte(read(t, dir, "models/angry.json")), &angry); err != nil || angry.Model.Description != hostile {
		t.Errorf("the hostile description is %q, %v", angry.Model.Description, err)
	}
}

// TestReplace holds that a site is replaced as a whole, that nothing else is,
// and that failures leave what was there and nothing beside it.
func TestReplace(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "site")
	models := catalogtest.Example(t)
	ctx := context.Background()
	if _, err := Write(ctx, dir, "stable", catalogtest.Sequence(models), Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(ctx, dir, "stable", catalogtest.Sequence(models[1:]), Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "models", "all-minilm-l6-v2.html")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a page of the old site is there: %v", err)
	}
	before := read(t, dir, "index.html")
	broken := errors.New("the catalog is broken")
	for name, models := range map[string]iter.Seq2[*catalog.Model, error]{
		"broken": func(yield func(*catalog.Model, error) bool) {
			if yield(&models[0], nil) {
				yield(nil, broken)
			}
		},
		"twice": catalogtest.Sequence([]catalog.Model{models[0], models[0]}),
		"two currencies": func(yield func(*catalog.Model, error) bool) {
			m := catalogtest.Example(t)[2]
			m.Serving.Prices[0].Currency = "EUR"
			yield(&m, nil)
		},
	} {
		if _, err := Write(ctx, dir, "stable", models, Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Write(cancelled, dir, "stable", catalogtest.Sequence(models), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if read(t, dir, "index.html") != before {
		t.Error("a failure changed the site")
	}
	other := filepath.Join(parent, "other")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(ctx, other, "stable", catalogtest.Sequence(models), Options{}); err == nil || !strings.Contains(err.Error(), "holds something else than a site") {
		t.Errorf("a folder of other files: %v", err)
	}
	list, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 {
		t.Errorf("left behind: %v", list)
	}
	for _, base := range []string{"ftp://x", "https://x/$(id)", "https://x/\"", "https://u:p@x/v1", "x", "https://x/?a=b", "https://x/`id`", "https://x/\\"} {
		if _, err := Write(ctx, dir, "stable", catalogtest.Sequence(models), Options{BaseURL: base}); err == nil {
			t.Errorf("base address %q was taken", base)
		}
	}
}

// many yields n models that differ.
func many(t testing.TB, n int) iter.Seq2[*catalog.Model, error] {
	base := catalogtest.Example(t)
	return func(yield func(*catalog.Model, error) bool) {
		for i := range n {
			m := base[i%len(base)]
			m.Slug = fmt.Sprintf("model-%06d", i)
			m.DisplayName = fmt.Sprintf("%s %d", m.DisplayName, i)
			m.Pairings = nil
			if !yield(&m, nil) {
				return
			}
		}
	}
}

// TestManyModels holds the parts of a large index to the rows, and the lists
// without scripts to every model.
func TestManyModels(t *testing.T) {
	const n = inlineModels + 1
	dir := filepath.Join(t.TempDir(), "site")
	if _, err := Write(context.Background(), dir, "stable", many(t, n), Options{}); err != nil {
		t.Fatal(err)
	}
	var head struct {
		Models int
		Parts  []string
		Rows   []any
	}
	if err := json.Unmarshal([]byte(read(t, dir, marker)), &head); err != nil {
		t.Fatal(err)
	}
	if head.Models != n || len(head.Rows) != 0 {
		t.Errorf("the index has %d models, %d in itself", head.Models, len(head.Rows))
	}
	rows := 0
	for _, part := range head.Parts {
		var list [][]any
		if err := json.Unmarshal([]byte(read(t, dir, part)), &list); err != nil {
			t.Fatal(err)
		}
		rows += len(list)
		for _, r := range list {
			if len(r) != 15 {
				t.Fatalf("%s: a row of %d", part, len(r))
			}
		}
	}
	if rows != n {
		t.Errorf("the parts have %d rows, want %d", rows, n)
	}
	listed := 0
	for i := 1; ; i++ {
		text, err := os.ReadFile(filepath.Join(dir, "list", fmt.Sprint(i)+".html"))
		if err != nil {
			break
		}
		listed += strings.Count(string(text), `<li class="card">`)
	}
	if listed != n {
		t.Errorf("the lists have %d models, want %d", listed, n)
	}
}

// TestLargeSite measures a site of many models.
func TestLargeSite(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: writes 20,000 files")
	}
	for _, n := range []int{1_000, 10_000} {
		dir := filepath.Join(t.TempDir(), "site")
		start := time.Now()
		peak := watchMemory(t)
		s, err := Write(context.Background(), dir, "stable", many(t, n), Options{})
		if err != nil {
			t.Fatal(err)
		}
		took, most := time.Since(start), peak()
		t.Logf("%d models: %v, %d files, %d MB written, heap at most %d MB", n, took.Round(time.Millisecond), s.Files, s.Bytes>>20, most>>20)
		if most > 128<<20 {
			t.Errorf("%d models took %d MB of memory, want at most 128", n, most>>20)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// TestText holds the texts of numbers to what people read.
func TestText(t *testing.T) {
	for _, c := range [][2]string{
		{bytesText(0), "0 B"}, {bytesText(999), "999 B"}, {bytesText(1000), "1 kB"}, {bytesText(396705472), "397 MB"},
		{bytesText(14333908832), "14.3 GB"}, {countText(596049920), "596M"}, {countText(22713216), "22.7M"}, {tokensText(1000000), "1\u202f000\u202f000"},
		{tokensText(999), "999"}, {taskText("text-generation"), "Text generation"}, {percentText(0.9204), "92.04 %"},
		{excerpt("one  two\nthree", 8), "one two…"}, {urlSafe("@cf/a b/$x`"), "@cf/a%20b/%24x%60"}, {languageText("xx"), "xx"},
	} {
		if c[0] != c[1] {
			t.Errorf("%q, want %q", c[0], c[1])
		}
	}
}
