package hub

import (
	"fmt"
	"strings"
)

// Scheme starts a reference to a model repository on the Hub.
const Scheme = "hf://"

// DefaultRevision is what a reference without a revision means, as on the Hub itself.
const DefaultRevision = "main"

// A Ref names a model repository at a revision: hf://org/name[@revision].
type Ref struct {
	// Repo is "org/name", or "name" for the canonical models that have no organisation (gpt2).
	Repo string
	// Revision is a branch, a tag, a commit, or a git ref such as refs/pr/1. Empty means DefaultRevision.
	Revision string
}

// IsRef reports whether s claims to be a Hub reference, valid or not.
func IsRef(s string) bool { return strings.HasPrefix(s, Scheme) }

// ParseRef parses hf://org/name[@revision]. Names follow the Hub's own rules, so that a typing error is named here
// instead of coming back as an access error.
func ParseRef(s string) (Ref, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok {
		return Ref{}, fmt.Errorf("hub reference %q: want %sorg/name[@revision]", s, Scheme)
	}
	repo, revision, pinned := strings.Cut(rest, "@")
	if err := checkRepo(repo); err != nil {
		return Ref{}, fmt.Errorf("hub reference %q: %w", s, err)
	}
	if pinned {
		if err := checkRevision(revision); err != nil {
			return Ref{}, fmt.Errorf("hub reference %q: %w", s, err)
		}
	}
	return Ref{Repo: repo, Revision: revision}, nil
}

// String is the form that ParseRef reads.
func (r Ref) String() string {
	if r.Revision == "" {
		return Scheme + r.Repo
	}
	return Scheme + r.Repo + "@" + r.Revision
}

// checkRepo holds a repository id to the Hub's rules (huggingface_hub, validate_repo_id): one optional organisation,
// letters, digits, '-', '_', '.', at most 96 characters a part, '-' and '.' neither first, last nor doubled.
func checkRepo(id string) error {
	if id == "" {
		return fmt.Errorf("no repository name: want org/name")
	}
	parts := strings.Split(id, "/")
	if len(parts) > 2 {
		switch parts[0] {
		case "datasets", "spaces", "buckets":
			return fmt.Errorf("%s are not models: want org/name", parts[0])
		}
		return fmt.Errorf("repository %q has %d parts: want org/name, and @revision after it (a path inside is not part of a reference)", id, len(parts))
	}
	for _, part := range parts {
		if part == "" {
			return fmt.Errorf("repository %q: empty name: want org/name", id)
		}
		if len(part) > 96 {
			return fmt.Errorf("repository name %q...: %d characters: at most 96", part[:16], len(part))
		}
		for _, c := range []byte(part) {
			if !isNameByte(c) {
				return fmt.Errorf("repository name %q: character %q: only letters, digits, '-', '_' and '.'", part, c)
			}
		}
		if strings.ContainsRune("-.", rune(part[0])) || strings.ContainsRune("-.", rune(part[len(part)-1])) {
			return fmt.Errorf("repository name %q: must not start or end with '-' or '.'", part)
		}
		if strings.Contains(part, "--") || strings.Contains(part, "..") {
			return fmt.Errorf("repository name %q: must not contain %q or %q", part, "--", "..")
		}
		if strings.HasSuffix(part, ".git") {
			return fmt.Errorf("repository name %q: leave the .git away", part)
		}
	}
	return nil
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

// checkRevision holds a revision to git's rules for ref names (git check-ref-format), which also keep it harmless as a
// path below refs/ of the cache.
func checkRevision(rev string) error {
	bad := func(why string) error { return fmt.Errorf("revision %q: %s", rev, why) }
	switch {
	case rev == "":
		return fmt.Errorf("empty revision after '@': want a branch, tag or commit")
	case len(rev) > 255:
		return fmt.Errorf("revision %q...: %d characters: at most 255", rev[:16], len(rev))
	case strings.HasPrefix(rev, "-"):
		return bad("must not start with '-'")
	case strings.Contains(rev, "..") || strings.Contains(rev, "@{") || rev == "@":
		return bad("not a git ref name")
	}
	for _, part := range strings.Split(rev, "/") {
		switch {
		case part == "":
			return bad("empty part between slashes")
		case part[0] == '.' || part[len(part)-1] == '.' || strings.HasSuffix(part, ".lock"):
			return bad("parts must not start or end with '.' or end with .lock")
		}
	}
	for i := 0; i < len(rev); i++ {
		if c := rev[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`~^:?*[\`, c) >= 0 {
			return bad(fmt.Sprintf("character %q is not allowed in a git ref", c))
		}
	}
	return nil
}

// isCommit reports whether rev is a full git object id rather than a name that can move.
func isCommit(rev string) bool { return isHex(rev, 40) || isHex(rev, 64) }

// isHex reports whether s is exactly n lower-case hexadecimal digits.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
