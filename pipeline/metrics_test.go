package pipeline

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

// The text format of Prometheus, version 0.0.4: a sample's line.
var sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\} (-?[0-9.]+(?:e[+-][0-9]+)?)$`)

// parseMetrics reads a file strictly: each family has its help and type before
// its samples, no sample is there twice, and the last line ends.
func parseMetrics(t *testing.T, text string) map[string]string {
	t.Helper()
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line does not end")
	}
	out, families, now := map[string]string{}, map[string]bool{}, ""
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			now, _, _ = strings.Cut(rest, " ")
			if families[now] || i+1 == len(lines) || lines[i+1] != "# TYPE "+now+" gauge" {
				t.Errorf("line %d: %s", i, line)
			}
			families[now] = true
			continue
		}
		if strings.HasPrefix(line, "# TYPE ") {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil || m[1] != now {
			t.Errorf("line %d: %s", i, line)
			continue
		}
		key := m[1] + "{" + m[2] + "}"
		if _, twice := out[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		out[key] = m[3]
	}
	return out
}

func TestMetrics(t *testing.T) {
	name := filepath.Join(t.TempDir(), "metrics", "modelpipe.prom")
	s := &Summary{Store: "a\\b\"c\nd", Began: time.Unix(1000, 0), Seconds: 60.5, Outcome: OutcomeDone, Made: 2, Written: 1 << 40, Models: []ModelSummary{{Model: "a", State: ModelReleased}, {Model: "b", State: ModelCurrent}}}
	write := func() map[string]string {
		t.Helper()
		if err := s.WriteMetrics(name); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return parseMetrics(t, string(data))
	}
	const store = `store="a\\b\"c\nd"`
	value := func(m map[string]string, name, labels, want string) {
		t.Helper()
		key := fmt.Sprintf("modelpipe_refresh_%s{%s%s}", name, store, labels)
		if m[key] != want {
			t.Errorf("%s is %q, want %s", key, m[key], want)
		}
	}
	m := write()
	value(m, "last_run_timestamp_seconds", "", "1060")
	value(m, "last_success_timestamp_seconds", "", "1060")
	value(m, "duration_seconds", "", "60.5")
	value(m, "variants_made", "", "2")
	value(m, "written_bytes", "", "1099511627776")
	value(m, "outcome", `,outcome="done"`, "1")
	value(m, "outcome", `,outcome="failed"`, "0")
	value(m, "models", `,state="current"`, "1")
	value(m, "model_ok", `,model="a"`, "1")
	// A failure takes over when the last success was.
	s.Began, s.Outcome, s.Models[0].State = time.Unix(5000, 0), OutcomeFailed, ModelFailed
	m = write()
	value(m, "last_run_timestamp_seconds", "", "5060")
	value(m, "last_success_timestamp_seconds", "", "1060")
	value(m, "outcome", `,outcome="failed"`, "1")
	value(m, "model_ok", `,model="a"`, "0")
	value(m, "model_ok", `,model="b"`, "1")
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v: want one file", entries, err)
	}
	if err := os.WriteFile(name, []byte("modelpipe_refresh_last_success_timestamp_seconds{} x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	value(write(), "last_success_timestamp_seconds", "", "0")
}
