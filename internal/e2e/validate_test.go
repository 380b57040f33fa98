package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// serve runs llama.cpp's server on a model for the time of the test and
// returns its address.
func (s tools) serve(t *testing.T, model string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.python, "server.py", model)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if address, ok := strings.CutPrefix(lines.Text(), "address "); ok {
			return address
		}
	}
	t.Fatalf("the server does not say its address (%v)", lines.Err())
	return ""
}

// TestLargeValidate judges a file with the server that runs it, which must
// agree, and with one that runs another file, which must not.
func TestLargeValidate(t *testing.T) {
	s := setUp(t)
	const folder = "../../testdata/stories260K"
	q8, q4 := s.convert(t, folder, "--type", "q8_0"), s.convert(t, folder, "--type", "q4_0")
	for _, c := range []struct {
		name, served string
		code         int
		ok           bool
	}{{"the same file", q8, 0, true}, {"another file", q4, 3, false}} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), s.modelpipe, "validate", q8, "--against", folder, "--chunks", "1", "--ctx", "128",
				"--skip", "canaries,weights", "--device", "cpu", "--runtime", s.serve(t, c.served), "--json")
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			var exit *exec.ExitError
			if code := 0; errors.As(err, &exit) {
				code = exit.ExitCode()
				if code != c.code {
					t.Fatalf("code %d: %s", code, errs.String())
				}
			} else if err != nil || c.code != 0 {
				t.Fatalf("%v: want code %d", err, c.code)
			}
			var r struct {
				Runtime struct {
					OK          bool    `json:"ok"`
					TokensEqual bool    `json:"tokens_equal"`
					LogProb     float64 `json:"log_prob"`
					Model       string  `json:"model"`
				} `json:"runtime"`
			}
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatalf("%v: %s", err, errs.String())
			}
			if r.Runtime.OK != c.ok || !r.Runtime.TokensEqual || r.Runtime.Model != filepath.Base(c.served) {
				t.Errorf("%+v: want ok %v: %s", r.Runtime, c.ok, errs.String())
			}
			t.Logf("log-probabilities are off by %.4f", r.Runtime.LogProb)
		})
	}
}
