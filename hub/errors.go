package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
)

// What went wrong, for errors.Is. Every error of this package that comes from a server is an *Error that wraps one.
var (
	// ErrUnavailable: the network, or the server, did not answer in spite of retries. Worth another try later.
	ErrUnavailable = errors.New("unavailable")
	// ErrRateLimited: the server asked for a longer pause than Options.Retry.MaxWait. It is also ErrUnavailable.
	ErrRateLimited = fmt.Errorf("rate limited: %w", ErrUnavailable)
	// ErrOffline: HF_HUB_OFFLINE is set and the cache does not have what was asked for.
	ErrOffline = errors.New("offline")
	// ErrGated: the repository's licence has to be accepted first.
	ErrGated = errors.New("gated repository")
	// ErrUnauthorized: the token is missing, wrong, or lacks the permission.
	ErrUnauthorized = errors.New("not authorized")
	// ErrRepoNotFound: no such repository, or a private one that the token does not open (the Hub does not tell which).
	ErrRepoNotFound = errors.New("repository not found")
	// ErrRevisionNotFound: the repository has no such branch, tag or commit.
	ErrRevisionNotFound = errors.New("revision not found")
	// ErrEntryNotFound: the repository has no such file at this revision. It is also fs.ErrNotExist.
	ErrEntryNotFound = fmt.Errorf("entry not found: %w", fs.ErrNotExist)
	// ErrMismatch: the bytes received are not those that the repository names by digest or size.
	ErrMismatch = errors.New("content mismatch")
	// ErrProtocol: the server answered what no client could use safely.
	ErrProtocol = errors.New("unusable answer")
)

// Error is a failed exchange with a server: what was being done, what the server said, and what the user can do.
// It never holds a token or the query of a signed URL.
type Error struct {
	Op        string // what was being done: "list org/name@main", "read org/name@abc123: model.safetensors"
	Host      string // the host that answered; empty if none did
	Status    int    // HTTP status; 0 if there was no answer
	Code      string // X-Error-Code
	Message   string // X-Error-Message
	RequestID string // X-Request-Id, which the Hub's support asks for
	Hint      string // what to do about it
	Err       error  // wraps one of the Err values
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	b.WriteString(": ")
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, " (%s: status %d", e.Host, e.Status)
		if e.Code != "" {
			fmt.Fprintf(&b, " %s", e.Code)
		}
		if e.Message != "" {
			fmt.Fprintf(&b, ": %s", e.Message)
		}
		if e.RequestID != "" {
			fmt.Fprintf(&b, "; request id %s", e.RequestID)
		}
		b.WriteByte(')')
	}
	if e.Hint != "" {
		b.WriteString(": ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// subject is what an exchange is about; it words the error.
type subject struct {
	op       string // as Error.Op
	repo     string // empty for a plain URL
	revision string
	entry    string // the file, if the exchange is about one
}

// refusal turns a final status (not one to retry) into an *Error that says what to do.
func (c *Client) refusal(s subject, resp *http.Response) *Error {
	h := resp.Header
	e := &Error{
		Op:        s.op,
		Host:      resp.Request.URL.Host,
		Status:    resp.StatusCode,
		Code:      c.clean(h.Get("X-Error-Code")),
		Message:   c.clean(h.Get("X-Error-Message")),
		RequestID: c.clean(h.Get("X-Request-Id")),
	}
	if s.repo == "" {
		e.Hint, e.Err = c.refusalOfURL(resp)
		return e
	}
	page := c.endpoint.String() + "/" + s.repo
	tokens := c.endpoint.String() + "/settings/tokens"
	switch {
	case e.Code == "GatedRepo" && c.token == "":
		e.Err = ErrGated
		e.Hint = fmt.Sprintf("accept the licence at %s, then set HF_TOKEN to a token from %s", page, tokens)
	case e.Code == "GatedRepo":
		e.Err = ErrGated
		e.Hint = fmt.Sprintf("the account of the token (%s) is not on the access list: ask for access at %s", c.tokenFrom, page)
	case e.Code == "DisabledRepo":
		e.Err = ErrUnauthorized
		e.Hint = "the repository has been disabled by the Hub"
	case e.Code == "RevisionNotFound":
		e.Err = ErrRevisionNotFound
		e.Hint = fmt.Sprintf("see the branches and tags at %s/tree/main", page)
	case e.Code == "EntryNotFound":
		e.Err = ErrEntryNotFound
	case resp.StatusCode == http.StatusUnauthorized && c.token == "" && s.entry != "":
		// It was listed, so it exists.
		e.Err = ErrUnauthorized
		e.Hint = fmt.Sprintf("set HF_TOKEN to a token from %s, and accept the licence at %s if there is one", tokens, page)
	case resp.StatusCode == http.StatusUnauthorized && c.token == "":
		// The Hub answers 401 for a repository that does not exist, so as not to tell which private ones do.
		e.Err = ErrRepoNotFound
		e.Hint = "check the name; if the repository is private, set HF_TOKEN"
	case resp.StatusCode == http.StatusUnauthorized && e.Code != "RepoNotFound":
		e.Err = ErrUnauthorized
		e.Hint = fmt.Sprintf("the token (%s) was not accepted: check it at %s", c.tokenFrom, tokens)
	case resp.StatusCode == http.StatusForbidden:
		e.Err = ErrUnauthorized
		if c.token == "" {
			e.Hint = fmt.Sprintf("set HF_TOKEN to a token from %s", tokens)
		} else {
			e.Hint = fmt.Sprintf("the token (%s) lacks the permission to read this repository: accept the licence at %s if there is one, or see %s", c.tokenFrom, page, tokens)
		}
	case e.Code == "RepoNotFound", resp.StatusCode == http.StatusUnauthorized,
		resp.StatusCode == http.StatusNotFound && s.entry == "":
		e.Err = ErrRepoNotFound
		e.Hint = "check the name and the revision; if the repository is private, check that the token may read it"
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		e.Err = ErrEntryNotFound
	default:
		e.Err = ErrProtocol
	}
	return e
}

func (c *Client) refusalOfURL(resp *http.Response) (hint string, err error) {
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		if sameOrigin(resp.Request.URL, c.endpoint) && c.token == "" {
			return "set HF_TOKEN, and accept the licence on the model's page if it is gated", ErrUnauthorized
		}
		return "the server does not let this file be read", ErrUnauthorized
	case http.StatusNotFound, http.StatusGone:
		return "", ErrEntryNotFound
	}
	return "", ErrProtocol
}

// clean makes a server's text fit for an error message: one line, bounded, printable, without our token in it.
func (c *Client) clean(s string) string {
	if c.token != "" {
		s = strings.ReplaceAll(s, string(c.token), "***")
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	if len(s) > 400 {
		s = strings.ToValidUTF8(s[:400], "") + "..."
	}
	return strings.TrimSpace(s)
}

// transportError strips what *url.Error prints: the whole URL, whose query may be a signature.
func transportError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}
