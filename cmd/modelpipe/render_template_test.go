package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/validate"
)

// TestRenderApart renders in another process as in this one, and lives through
// templates that take all the memory that they can get.
func TestRenderApart(t *testing.T) {
	for _, c := range []struct{ template, says string }{
		{"{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ tools | tojson }}", ""},
		{"{{ raise_exception('no tools') }}", "the template raises: no tools"},
		{"{% bad", "chat template: failed to parse"},
		{"{{ 'a' * 2000000000 }}", "which may take 256 MiB of memory, has failed"},
		{"{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}", "which may take 256 MiB of memory, has failed"},
	} {
		r := validate.Rendering{Template: c.template, Conversation: "tool call", Special: map[string]string{"bos_token": "<s>"}}
		got, err := renderApart(t.Context(), r)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, validate.ErrRaised) != strings.Contains(c.template, "raise") {
				t.Errorf("%s: error %v: want %q", c.template, err, c.says)
			}
			continue
		}
		want, wantErr := r.Run()
		if err != nil || wantErr != nil || got != want || !strings.Contains(got, `"days"`) {
			t.Errorf("%s: got %q (%v): want %q (%v)", c.template, got, err, want, wantErr)
		}
	}
}
