package validate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// ErrRuntime says that the runtime cannot be asked; it may be worth a retry.
var ErrRuntime = errors.New("runtime is not available")

// maxAnswer bounds what is read of a runtime's answer.
const maxAnswer = 64 << 20

// probTolerance is how far a runtime's log-probabilities may be from ours, in
// nats, before rounding of weights is counted: llama.cpp rounds activations to
// 8 bits and keeps its cache in 16.
const probTolerance = 0.15

// runtimeProbs is how many tokens the runtime names at each place.
const runtimeProbs = 10

// RuntimeResult says whether a running llama.cpp server does with the file
// what the file says.
type RuntimeResult struct {
	OK      bool   `json:"ok"`
	URL     string `json:"url"`
	Model   string `json:"model,omitempty"` // that the server names
	Prompts int    `json:"prompts"`
	// TokensEqual says that /tokenize gives the file's ids.
	TokensEqual bool `json:"tokens_equal"`
	Same        int  `json:"same"` // continuations of the same tokens as ours
	// LogProb is the median difference of log-probabilities, in nats, of the
	// tokens that the server names at the first place after each prompt.
	LogProb     float64  `json:"log_prob"`
	Answers     []Answer `json:"answers"`
	Differences []string `json:"differences,omitempty"`
}

// server is llama.cpp's HTTP server.
type server struct {
	base   *url.URL
	client *http.Client
}

func newServer(address string) (*server, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("runtime %q: want http://host:port", address)
	}
	return &server{u, &http.Client{Timeout: 10 * time.Minute}}, nil
}

// shown is the address without user and query.
func (s *server) shown() string {
	return s.base.Scheme + "://" + s.base.Host + strings.TrimSuffix(s.base.EscapedPath(), "/")
}

// call posts a request as JSON and reads the answer into out; a nil request is
// a GET.
func (s *server) call(ctx context.Context, path string, in, out any) error {
	fail := func(err error) error { return fmt.Errorf("%w: %s%s: %w", ErrRuntime, s.shown(), path, err) }
	method, body := http.MethodGet, io.Reader(nil)
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		method, body = http.MethodPost, bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base.JoinPath(path).String(), body)
	if err != nil {
		return fail(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err
		}
		return fail(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fail(err)
	case len(data) > maxAnswer:
		return fail(fmt.Errorf("the answer is larger than %d bytes", maxAnswer))
	case resp.StatusCode != http.StatusOK:
		return fail(fmt.Errorf("status %s: %s", resp.Status, cut(string(data), 0)))
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fail(fmt.Errorf("the answer is not llama.cpp's: %w", err))
	}
	return nil
}

// tokenize asks for the ids of a text.
func (s *server) tokenize(ctx context.Context, text string) ([]int32, error) {
	var out struct {
		Tokens []int32 `json:"tokens"`
	}
	err := s.call(ctx, "/tokenize", map[string]any{"content": text, "add_special": true, "parse_special": true}, &out)
	return out.Tokens, err
}

// A prediction is what the server says of one place: the token that it chose
// and the log-probabilities of the most probable ones.
type prediction struct {
	ID  int32       `json:"id"`
	Top []candidate `json:"top_logprobs"`
}

type candidate struct {
	ID      int32   `json:"id"`
	LogProb float64 `json:"logprob"`
}

// complete continues a prompt greedily.
func (s *server) complete(ctx context.Context, prompt []int32, n int) (string, []prediction, error) {
	var out struct {
		Content string       `json:"content"`
		Probs   []prediction `json:"completion_probabilities"`
	}
	err := s.call(ctx, "/completion", map[string]any{
		"prompt": prompt, "n_predict": n, "temperature": 0, "n_probs": runtimeProbs, "cache_prompt": false,
		"samplers": []string{"temperature"}, "repeat_penalty": 1,
	}, &out)
	if err == nil && len(out.Probs) == 0 {
		err = fmt.Errorf("%w: %s/completion: the answer has no completion_probabilities", ErrRuntime, s.shown())
	}
	return out.Content, out.Probs, err
}

// compareRuntime asks a server for the ids, the continuations and the
// probabilities of prompts, and compares them with the file's tokenizer and
// with what this engine computes from the file.
func compareRuntime(ctx context.Context, e Engine, file *spec.Model, enc tokenizer.Encoder, v *tokenizer.Vocabulary, address string, prompts []string) (RuntimeResult, error) {
	s, err := newServer(address)
	if err != nil {
		return RuntimeResult{}, err
	}
	r := RuntimeResult{URL: s.shown(), Prompts: len(prompts), TokensEqual: true}
	var props struct {
		ModelPath string `json:"model_path"`
	}
	if err := s.call(ctx, "/props", nil, &props); err == nil {
		r.Model = props.ModelPath[strings.LastIndexAny(props.ModelPath, `/\`)+1:]
	}
	for _, text := range slices.Concat(corpus, prompts) {
		want, err := enc.Encode(text, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if err != nil {
			return r, fmt.Errorf("text %q: %w", cut(text, 0), err)
		}
		got, err := s.tokenize(ctx, text)
		if err != nil {
			return r, err
		}
		if !slices.Equal(got, want) {
			r.TokensEqual = false
			r.differ("text %q: the server's ids are %v, the file's %v", cut(text, 0), got, want)
		}
	}
	ids, err := encodeAll(enc, prompts)
	if err != nil {
		return r, err
	}
	ours, err := e.Greedy(ctx, file, ids, canaryTokens, stopsAt(v))
	if err != nil {
		return r, fmt.Errorf("continue the prompts with the file: %w", err)
	}
	limit := marginLimit(0) + 2*probTolerance
	var off []float64
	pass := true
	for i, prompt := range prompts {
		text, places, err := s.complete(ctx, ids[i], canaryTokens)
		if err != nil {
			return r, err
		}
		theirs := make([]int32, len(places))
		for j, p := range places {
			theirs[j] = p.ID
			if p.ID < 0 || int(p.ID) >= file.Vocab {
				return r, fmt.Errorf("%w: %s/completion: token %d: the file has %d", ErrRuntime, r.URL, p.ID, file.Vocab)
			}
		}
		a := Answer{Prompt: prompt, Source: enc.Decode(ours[i]), Candidate: text, Pass: true}
		logits, err := e.Logits(ctx, file, ids[i])
		if err != nil {
			return r, err
		}
		off = append(off, logProbErrors(logits[len(logits)-file.Vocab:], places[0].Top)...)
		at := common(ours[i], theirs)
		if at == len(ours[i]) || at == len(theirs) {
			r.Same++
		} else {
			if a.Margin, err = margin(ctx, e, file, slices.Concat(ids[i], ours[i][:at]), theirs[at]); err != nil {
				return r, err
			}
			a.Pass = a.Margin <= limit
		}
		if !a.Pass {
			pass = false
			r.differ("prompt %q: the server goes on with %q, where %q is more probable by %.3g nats: more than %.3g", prompt, a.Candidate, a.Source, a.Margin, limit)
		}
		r.Answers = append(r.Answers, a)
	}
	if len(off) == 0 {
		return r, fmt.Errorf("%w: %s/completion: the answers have no probabilities", ErrRuntime, r.URL)
	}
	slices.Sort(off)
	r.LogProb = off[len(off)/2]
	if r.LogProb > probTolerance || math.IsNaN(r.LogProb) {
		pass = false
		r.differ("log-probabilities are off by %.3g nats in the median: more than %.3g", r.LogProb, probTolerance)
	}
	r.OK = pass && r.TokensEqual
	return r, nil
}

func (r *RuntimeResult) differ(format string, args ...any) {
	if len(r.Differences) < maxDifferences {
		r.Differences = append(r.Differences, fmt.Sprintf(format, args...))
	}
}

// logProbErrors compares the server's log-probabilities with those of logits.
func logProbErrors(logits []float32, top []candidate) []float64 {
	largest := float64(slices.Max(logits))
	sum := 0.0
	for _, x := range logits {
		sum += math.Exp(float64(x) - largest)
	}
	norm := largest + math.Log(sum)
	var off []float64
	for _, c := range top {
		if c.ID >= 0 && int(c.ID) < len(logits) {
			off = append(off, math.Abs(float64(logits[c.ID])-norm-c.LogProb))
		}
	}
	return off
}
