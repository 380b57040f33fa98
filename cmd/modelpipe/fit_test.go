package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFit plans and converts to a size and to a loss, by priors and by losses
// that were measured, and refuses what cannot be.
func TestFit(t *testing.T) {
	const model = "../../testdata/stories260K"
	dir := t.TempDir()
	type result struct {
		Size   int64           `json:"size"`
		Recipe json.RawMessage `json:"recipe"`
		Budget struct {
			ExpectedKLD float64 `json:"expected_kld"`
			Losses      string  `json:"losses"`
			Note        string  `json:"note"`
			Preset      *struct {
				Name        string  `json:"name"`
				Size        int64   `json:"size"`
				ExpectedKLD float64 `json:"expected_kld"`
			} `json:"best_preset"`
		} `json:"budget"`
	}
	plan := func(args ...string) result {
		t.Helper()
		code, stdout, stderr := try(t, append([]string{"plan", model, "--json"}, args...)...)
		if code != exitDone {
			t.Fatalf("plan %v: exit %d: %s", args, code, stderr)
		}
		var r result
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	prior := plan("--max-size", "290KB")
	if prior.Size > 290_000 || prior.Size < 280_000 || prior.Budget.Losses != "priors" || prior.Budget.ExpectedKLD <= 0 {
		t.Errorf("by priors: %+v", prior)
	}

	losses := filepath.Join(dir, "l.json")
	text := filepath.Join(dir, "text")
	story := strings.Repeat("Once upon a time there was a little girl named Lily. She loved to play outside in the sun. ", 40)
	if err := os.WriteFile(text, []byte(story), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := try(t, "losses", model, "--text", text, "--chunks", "2", "--ctx", "64", "-o", losses, "--device", "cpu"); code != exitDone {
		t.Fatalf("losses: exit %d: %s", code, stderr)
	}
	measured := plan("--max-size", "290KB", "--losses", losses)
	if measured.Size > 290_000 || measured.Budget.Losses != "measured" {
		t.Errorf("by losses: %+v", measured)
	}
	if p := measured.Budget.Preset; p == nil || p.Size > measured.Size || p.ExpectedKLD < measured.Budget.ExpectedKLD {
		t.Errorf("the best preset is %+v: the fit is expected to lose %g", p, measured.Budget.ExpectedKLD)
	}
	out := filepath.Join(dir, "m.gguf")
	if code, _, stderr := try(t, "convert", model, "--max-size", "290KB", "--losses", losses, "-o", out); code != exitDone {
		t.Fatalf("convert: exit %d: %s", code, stderr)
	}
	if info, err := os.Stat(out); err != nil || info.Size() != measured.Size {
		t.Errorf("the file has %v bytes, %v: planned were %d", info, err, measured.Size)
	}
	small := plan("--max-kld", "0.5", "--losses", losses)
	if small.Budget.ExpectedKLD > 0.5 {
		t.Errorf("an expected divergence of %g: want at most 0.5", small.Budget.ExpectedKLD)
	}
	if whole := plan("--max-size", "1GB"); whole.Budget.Note == "" {
		t.Error("a limit above the model is not said to be one")
	}

	// Another model's losses.
	other := filepath.Join(dir, "other.json")
	b, err := os.ReadFile(losses)
	if err != nil {
		t.Fatal(err)
	}
	var f map[string]any
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	f["model"] = "sha256:0"
	if b, err = json.Marshal(f); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitGate, "the smallest file has", []string{"--max-size", "10KB"}},
		{exitGate, "at least", []string{"--max-kld", "1e-9", "--output-type", "Q4_0", "--losses", losses}},
		{exitUsage, "one of them", []string{"--max-size", "290KB", "--max-kld", "0.1"}},
		{exitUsage, "give one or the other", []string{"--max-size", "290KB", "--type", "Q4_K_M"}},
		{exitUsage, "want a size", []string{"--max-size", "many"}},
		{exitUsage, "go with --max-size", []string{"--fast-types"}},
		{exitFailed, "measured on another model", []string{"--max-size", "290KB", "--losses", other}},
		{exitFailed, "no such file", []string{"--max-size", "290KB", "--losses", filepath.Join(dir, "none")}},
		{exitFailed, "matches no tensor", []string{"--max-size", "290KB", "--tensor-type", "nothing=Q8_0"}},
	} {
		code, _, stderr := try(t, append([]string{"plan", model}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("plan %v: exit %d: %s: want %d, %q", c.args, code, stderr, c.code, c.want)
		}
	}
	for _, args := range [][]string{{"losses", model}, {"losses", model, "-o", losses}, {"losses", model, "-o", losses, "--text", filepath.Join(dir, "none")}} {
		if code, _, _ := try(t, args...); code == exitDone {
			t.Errorf("%v is accepted", args)
		}
	}
}
