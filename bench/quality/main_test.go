package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRun measures the bundled model beside tables that agree with it and that
// do not.
func TestRun(t *testing.T) {
	table := filepath.Join(t.TempDir(), "expected.csv")
	measured := func(rows string, args ...string) (string, error) {
		t.Helper()
		if err := os.WriteFile(table, []byte("preset,imatrix,bytes,ppl,kld,top1\n"+rows), 0o666); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := run(context.Background(), append([]string{"--chunks", "2", "--ctx", "64", "--device", "cpu",
			"../../testdata/stories260K", "../../validate/text.txt", table}, args...), &out, io.Discard)
		return out.String(), err
	}
	out, err := measured("", "Q8_0", "Q4_0")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || len(lines) != 4 {
		t.Fatalf("error %v: %s", err, out)
	}
	kld := strings.Fields(strings.ReplaceAll(lines[3], "|", " "))[4]
	row := func(kld string) string { return fmt.Sprintf("Q4_0,no,0,0,%s,0\nQ2_K,yes,0,0,1,0\n", kld) }
	if out, err := measured(row(kld)); err != nil || !strings.Contains(out, "| Q4_0 | no | ") || strings.Contains(out, "Q2_K") {
		t.Errorf("error %v: %s", err, out)
	}
	if _, err := cut(nil, "", 1, 64); err == nil {
		t.Error("a file without a vocabulary has cut a text")
	}
	for _, c := range []struct {
		rows string
		args []string
		says string
	}{
		{row("0.5"), nil, "more than 3 % from llama-perplexity: Q4_0"},
		{row("NaN"), nil, "more than 3 % from llama-perplexity: Q4_0"},
		{row("x"), nil, "line 2"},
		{"", []string{"Q2_K+"}, "want --imatrix"},
		{"", []string{"Q9_X"}, "Q9_X"},
	} {
		if _, err := measured(c.rows, c.args...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q %v: error %v: want %q", c.rows, c.args, err, c.says)
		}
	}
}
