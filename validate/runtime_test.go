package validate

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// llamaServer answers as llama.cpp's server does, from a file.
type llamaServer struct {
	engine Engine
	model  *spec.Model
	enc    tokenizer.Encoder
	vocab  *tokenizer.Vocabulary
	shift  int32   // added to ids
	warm   float64 // divides logits
}

func (s *llamaServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(err error) { http.Error(w, err.Error(), http.StatusInternalServerError) }
	switch r.URL.Path {
	case "/props":
		json.NewEncoder(w).Encode(map[string]string{"model_path": "/models/m.gguf"})
	case "/tokenize":
		var in struct {
			Content string `json:"content"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			fail(err)
			return
		}
		ids, err := s.enc.Encode(in.Content, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if err != nil {
			fail(err)
			return
		}
		for i := range ids {
			ids[i] += s.shift
		}
		json.NewEncoder(w).Encode(map[string]any{"tokens": ids})
	case "/completion":
		var in struct {
			Prompt []int32 `json:"prompt"`
			N      int     `json:"n_predict"`
			Probs  int     `json:"n_probs"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			fail(err)
			return
		}
		out, err := s.engine.Greedy(r.Context(), s.model, [][]int32{in.Prompt}, in.N, stopsAt(s.vocab))
		if err != nil {
			fail(err)
			return
		}
		logits, err := s.engine.Logits(r.Context(), s.model, slices.Concat(in.Prompt, out[0]))
		if err != nil {
			fail(err)
			return
		}
		var places []prediction
		for i, id := range out[0] {
			row := logits[(len(in.Prompt)-1+i)*s.model.Vocab:][:s.model.Vocab]
			sum := 0.0
			for _, x := range row {
				sum += math.Exp(float64(x) / s.warm)
			}
			p := prediction{ID: id}
			for t, x := range row {
				p.Top = append(p.Top, candidate{int32(t), float64(x)/s.warm - math.Log(sum)})
			}
			slices.SortFunc(p.Top, func(a, b candidate) int { return int(math.Copysign(1, b.LogProb-a.LogProb)) })
			p.Top = p.Top[:in.Probs]
			places = append(places, p)
		}
		json.NewEncoder(w).Encode(map[string]any{"content": s.enc.Decode(out[0]), "completion_probabilities": places})
	default:
		http.NotFound(w, r)
	}
}

// storiesIn is the bundled model's file in a preset, with its tokenizer.
func storiesIn(t testing.TB, preset string) (*spec.Model, tokenizer.Encoder, *tokenizer.Vocabulary) {
	t.Helper()
	f := openGGUF(t, converted(t, stories(t), "stories", preset))
	m, err := fromgguf.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	enc, v := vocabularyOf(t, f.Header.Metadata)
	return m, enc, v
}

// TestRuntime compares the file with servers that do, and do not do, what it
// says.
func TestRuntime(t *testing.T) {
	e := cpu(t)
	model, enc, vocab := storiesIn(t, "Q8_0")
	other, _, _ := storiesIn(t, "Q2_0")
	for _, c := range []struct {
		name string
		s    llamaServer
		ok   bool
		says string
	}{
		{"the same", llamaServer{model: model, warm: 1}, true, ""},
		{"another file", llamaServer{model: other, warm: 1}, false, "the server goes on with"},
		{"other ids", llamaServer{model: model, warm: 1, shift: 1}, false, "the server's ids are"},
		{"other probabilities", llamaServer{model: model, warm: 3}, false, "log-probabilities are off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.s.engine, c.s.enc, c.s.vocab = e, enc, vocab
			server := httptest.NewServer(&c.s)
			defer server.Close()
			r, err := compareRuntime(context.Background(), e, model, enc, vocab, server.URL, []string{"Once upon a time", "The dog"})
			if err != nil {
				t.Fatal(err)
			}
			if r.OK != c.ok || !strings.Contains(strings.Join(r.Differences, "\n"), c.says) || r.Model != "m.gguf" {
				t.Errorf("%+v: want ok %v, %q", r, c.ok, c.says)
			}
		})
	}
}

// TestRuntimeAnswers is what is not a llama.cpp server.
func TestRuntimeAnswers(t *testing.T) {
	for _, answer := range []string{"", "{}", `{"completion_probabilities":3}`, "<html>", `{"content":"x"}`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(answer)) }))
		s, err := newServer(server.URL + "?secret=1")
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = s.complete(context.Background(), []int32{1}, 1)
		if !errors.Is(err, ErrRuntime) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v", answer, err)
		}
		server.Close()
	}
}

// TestCanaries continues prompts with a file that is as good as its KLD says,
// and with one that answers otherwise.
func TestCanaries(t *testing.T) {
	e := cpu(t)
	source := openSource(t, stories(t)).Model
	for preset, ok := range map[string]bool{"Q8_0": true, "Q2_0": false} {
		m, enc, v := storiesIn(t, preset)
		r, err := compareCanaries(context.Background(), e, source, m, enc, v, []string{"Once upon a time", "The dog"}, 0.001)
		if err != nil {
			t.Fatal(err)
		}
		if r.OK != ok || (r.Margin <= r.Limit) != ok || len(r.Answers) != 2 {
			t.Errorf("%s: %+v: want ok %v", preset, r, ok)
		}
	}
}

func TestParseCanaries(t *testing.T) {
	got, err := ParseCanaries("One\n\n def f():\\n  return\r\n")
	if want := []string{"One", " def f():\n  return"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v: want %q", got, err, want)
	}
	for _, text := range []string{"", "\n \n", strings.Repeat("x\n", 1001)} {
		if _, err := ParseCanaries(text); err == nil {
			t.Errorf("%d bytes of prompts are taken", len(text))
		}
	}
}
