package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	code, stdout, stderr := try(t, "man", dir)
	if code != exitDone || stderr != "" {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	for _, name := range strings.Fields(stdout) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{".TH MODELPIPE", ".SH NAME", ".SH SYNOPSIS", ".SH EXIT STATUS"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s has no %s", name, want)
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "modelpipe-inspect.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".B \\-\\-file NAME\n", ".SH GLOBAL OPTIONS", "(default info)", ".SH EXAMPLES", "modelpipe(1)"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("modelpipe-inspect.1 has no %q:\n%s", want, b)
		}
	}
	if strings.Contains(stdout, "completion") || strings.Contains(stdout, "modelpipe-man") {
		t.Errorf("pages of commands that are not for users: %s", stdout)
	}
}

func TestRoff(t *testing.T) {
	if got, want := roff("a-b\n.TH \\\n'x"), "a\\-b\n\\&.TH \\e\n\\&'x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
