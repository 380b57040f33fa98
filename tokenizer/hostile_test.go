package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// within fails where f, which takes a moment when its cost is bounded, takes
// long. Each of these took minutes, or for ever, without its bound.
func within(t *testing.T, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestLongExpression(t *testing.T) {
	long := strings.Repeat("ab", 4<<20)
	within(t, func() {
		d := &Definition{PreTokenizers: []PreTokenizer{{Type: "Split", Behavior: "Isolated", Pattern: Pattern{Regex: long}}}}
		_, err := d.recognise()
		if err == nil || !strings.Contains(err.Error(), "not recognised") || len(err.Error()) > 64<<10 {
			t.Errorf("got an error of %d bytes", len(fmt.Sprint(err)))
		}
		if _, err := compileRegex(long, onigDialect); err == nil || len(err.Error()) > 1000 {
			t.Errorf("compiled, or got an error of %d bytes", len(fmt.Sprint(err)))
		}
	})
}

func TestLargeClass(t *testing.T) {
	var class strings.Builder
	for r := rune(0x3400); class.Len() < maxExpression-8; r += 2 {
		class.WriteRune(r)
	}
	within(t, func() {
		re, err := compileRegex("["+class.String()+"]+", onigDialect)
		if err != nil {
			t.Fatal(err)
		}
		if _, end, ok, err := re.matcher([]rune{0x3400, 0x3402, 0x3401}).find(0); !ok || end != 2 || err != nil {
			t.Errorf("got %d, %t, %v", end, ok, err)
		}
	})
}

func TestManySteps(t *testing.T) {
	steps := strings.Repeat(`{"type":"Digits","individual_digits":true},`, 1000)
	data := fmt.Sprintf(`{"model":{"type":"BPE","vocab":{},"merges":[]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[%s]}}`, strings.TrimSuffix(steps, ","))
	_, err := ParseDefinition([]byte(data))
	if err == nil || !strings.Contains(err.Error(), "more than 256 steps") {
		t.Errorf("got %v", err)
	}
}

func TestStripWithoutEnd(t *testing.T) {
	strip, err := newDecoder(Decoder{Type: "Strip", Content: "x", Start: math.MaxInt, Stop: math.MaxInt})
	if err != nil {
		t.Fatal(err)
	}
	within(t, func() {
		if got := strip([]string{"xxaxbx"}); got[0] != "axb" {
			t.Errorf("got %q", got)
		}
	})
}

func TestLongRanks(t *testing.T) {
	ranks := &Tiktoken{Ranks: make(map[string]int32)}
	add := func(token []byte) {
		if err := ranks.add(token); err != nil {
			t.Fatal(err)
		}
	}
	for b := range 256 {
		add([]byte{byte(b)})
	}
	for i := range 20_000 {
		add(fmt.Appendf(bytes.Repeat([]byte("ab"), maxTiktokenBytes/2-8), "%d", i))
	}
	within(t, func() {
		if _, err := ranks.Merges(false); err == nil || !strings.Contains(err.Error(), "too long") {
			t.Errorf("merges: got %v", err)
		}
		if _, err := ranks.Splits(); err == nil || !strings.Contains(err.Error(), "too long") {
			t.Errorf("splits: got %v", err)
		}
	})
}

func TestManyAddedTokens(t *testing.T) {
	const n = 20_000
	added := make(map[string]int, n)
	names := make([]string, n)
	for i := range n {
		names[i] = fmt.Sprintf("<%d>", i)
		added[names[i]] = i + 1
	}
	fsys := fstest.MapFS{
		"tokenizer.json":        {Data: []byte(`{"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`)},
		"added_tokens.json":     {Data: marshal(t, added)},
		"tokenizer_config.json": {Data: marshal(t, map[string]any{"additional_special_tokens": names})},
	}
	files, err := Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	within(t, func() {
		v, err := files.Vocabulary(Options{Pre: "gpt-2"})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Tokens[n]; got.Text != names[n-1] || got.Type != Control {
			t.Errorf("last token is %+v", got)
		}
	})
}

func TestManyTemplates(t *testing.T) {
	list := make([]map[string]string, 200_000)
	for i := range list {
		list[i] = map[string]string{"name": fmt.Sprintf("t%d", i), "template": ""}
	}
	files, err := Load(fstest.MapFS{"tokenizer_config.json": {Data: marshal(t, map[string]any{"chat_template": list})}})
	if err != nil {
		t.Fatal(err)
	}
	within(t, func() {
		if templates, err := files.ChatTemplates(); err != nil || len(templates) != len(list) {
			t.Errorf("got %d templates, %v", len(templates), err)
		}
	})

	large := &fstest.MapFile{Data: bytes.Repeat([]byte("x"), 40<<20)}
	_, err = Load(fstest.MapFS{
		"chat_template.jinja":               {Data: []byte("x")},
		"additional_chat_templates/a.jinja": large,
		"additional_chat_templates/b.jinja": large,
	})
	if err == nil || !strings.Contains(err.Error(), "bytes of templates") {
		t.Errorf("got %v", err)
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
