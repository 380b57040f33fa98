package trust

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
)

// The types of an attestation: an in-toto statement with SLSA provenance in a
// DSSE envelope.
const (
	statementType  = "https://in-toto.io/Statement/v1"
	provenanceType = "https://slsa.dev/provenance/v1"
	payloadType    = "application/vnd.in-toto+json"
	buildType      = "https://github.com/modelpipe/modelpipe/build/convert/v1"
	builderID      = "https://github.com/modelpipe/modelpipe"
)

// maxEnvelope bounds an attestation.
const maxEnvelope = 1 << 20

// Statement is an in-toto statement (in-toto attestation framework v1).
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is a file that the statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Predicate is SLSA provenance, version 1.
type Predicate struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is what went in.
type BuildDefinition struct {
	BuildType            string            `json:"buildType"`
	ExternalParameters   map[string]string `json:"externalParameters"`
	ResolvedDependencies []Resource        `json:"resolvedDependencies"`
}

// Resource is a thing that went in.
type Resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// RunDetails is who did it, and when.
type RunDetails struct {
	Builder  Builder     `json:"builder"`
	Metadata RunMetadata `json:"metadata"`
}

// Builder is the program.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version"`
}

// RunMetadata is when.
type RunMetadata struct {
	FinishedOn time.Time `json:"finishedOn"`
}

// NewStatement says of a variant what it was made of.
func NewStatement(model string, v *catalog.Variant) (*Statement, error) {
	if len(v.Files) == 0 {
		return nil, fmt.Errorf("provenance of %s: no files", model)
	}
	hex := func(d catalog.Digest) map[string]string {
		return map[string]string{"sha256": strings.TrimPrefix(string(d), "sha256:")}
	}
	s := &Statement{Type: statementType, PredicateType: provenanceType}
	for _, f := range v.Files {
		s.Subject = append(s.Subject, Subject{Name: f.Path, Digest: hex(f.SHA256)})
	}
	p := v.Provenance
	source := Resource{Name: "source", URI: p.Source.Repository}
	if p.Source.Commit != "" {
		source.Digest = map[string]string{"gitCommit": p.Source.Commit}
	}
	s.Predicate.BuildDefinition = BuildDefinition{
		BuildType:            buildType,
		ExternalParameters:   map[string]string{"model": model, "source": p.Source.Repository, "preset": v.Preset},
		ResolvedDependencies: []Resource{source},
	}
	for name, d := range map[string]catalog.Digest{"recipe": p.Recipe, "imatrix": p.Imatrix} {
		if d != "" {
			s.Predicate.BuildDefinition.ResolvedDependencies = append(s.Predicate.BuildDefinition.ResolvedDependencies, Resource{Name: name, Digest: hex(d)})
		}
	}
	slices.SortStableFunc(s.Predicate.BuildDefinition.ResolvedDependencies[1:], func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	s.Predicate.RunDetails = RunDetails{
		Builder:  Builder{ID: builderID, Version: map[string]string{p.Tool.Name: p.Tool.Version}},
		Metadata: RunMetadata{FinishedOn: p.Created},
	}
	return s, nil
}

// envelope is a DSSE envelope (secure-systems-lab/dsse, protocol v1).
type envelope struct {
	PayloadType string              `json:"payloadType"`
	Payload     []byte              `json:"payload"`
	Signatures  []envelopeSignature `json:"signatures"`
}

type envelopeSignature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// encoding is what is signed: DSSE's pre-authentication encoding.
func encoding(kind string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
}

// Attest signs a statement with the keys that are on this machine; it is an
// error where none of them is.
func Attest(ctx context.Context, s *Statement, keys ...*Key) ([]byte, error) {
	payload, err := catalog.Encode(s)
	if err != nil {
		return nil, err
	}
	payload = bytes.TrimSuffix(payload, []byte("\n"))
	e := envelope{PayloadType: payloadType, Payload: payload}
	for _, k := range keys {
		sig, err := k.Sign(ctx, encoding(payloadType, payload))
		if errors.Is(err, errNoKey) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("provenance: %w", err)
		}
		e.Signatures = append(e.Signatures, envelopeSignature{k.ID, base64.StdEncoding.EncodeToString(sig)})
	}
	if len(e.Signatures) == 0 {
		return nil, fmt.Errorf("provenance: %w", errNoKey)
	}
	return catalog.Encode(e)
}

// VerifyAttestation returns the statement of an envelope that one of the keys
// has signed, and that is about the files of the variant.
func VerifyAttestation(data []byte, v *catalog.Variant, keys ...*Key) (*Statement, error) {
	if len(data) > maxEnvelope {
		return nil, fmt.Errorf("provenance: has %d bytes, want at most %d", len(data), maxEnvelope)
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	if e.PayloadType != payloadType {
		return nil, fmt.Errorf("provenance: payload type %.80q, want %s", e.PayloadType, payloadType)
	}
	if !signedBy(e, keys) {
		return nil, fmt.Errorf("provenance: %w: none of the %d keys has signed it", ErrUntrusted, len(keys))
	}
	var s Statement
	if err := json.Unmarshal(e.Payload, &s); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	if s.Type != statementType || s.PredicateType != provenanceType {
		return nil, fmt.Errorf("provenance: is a %.80q with %.80q", s.Type, s.PredicateType)
	}
	for _, f := range v.Files {
		want := strings.TrimPrefix(string(f.SHA256), "sha256:")
		if !slices.ContainsFunc(s.Subject, func(x Subject) bool { return x.Digest["sha256"] == want }) {
			return nil, fmt.Errorf("provenance: %w: is not about file %s with %s", ErrUntrusted, f.Path, f.SHA256)
		}
	}
	return &s, nil
}

// signedBy says whether one of the keys has signed the envelope.
func signedBy(e envelope, keys []*Key) bool {
	for _, sig := range e.Signatures {
		raw, err := base64.StdEncoding.DecodeString(sig.Sig)
		if err != nil {
			continue
		}
		for _, k := range keys {
			if k.ID == sig.KeyID && verify(k.public, encoding(e.PayloadType, e.Payload), raw) == nil {
				return true
			}
		}
	}
	return false
}

// ChannelKeys returns the keys that sign for a channel: provenance of what it
// offers is signed by the same.
func (p *Policy) ChannelKeys(channel string) ([]*Key, error) {
	r, err := p.role(channelRole(channel))
	if err != nil {
		return nil, err
	}
	return p.keysOf(r), nil
}
