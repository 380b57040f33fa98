package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/publish"
)

// SummarySchema names the form of a summary.
const SummarySchema = "modelpipe.refresh/1"

// What became of a refresh, and the exit code of the command.
const (
	OutcomeDone        = "done"        // 0
	OutcomeFailed      = "failed"      // 1: a model failed for a reason that stays
	OutcomeUsage       = "usage"       // 2: the curation file or the options
	OutcomeRefused     = "refused"     // 3: only gates said no
	OutcomeUnavailable = "unavailable" // 4: worth a retry: a source or the store did not answer, is locked, or the run was interrupted
)

// The states of models in a summary.
const (
	ModelCurrent  = "current"  // nothing was to be done
	ModelReleased = "released" // and promoted
	ModelMade     = "made"     // in the store; a release has it already, or people have withdrawn it
	ModelPlanned  = "planned"  // there is something to be done, in a dry run
	ModelRefused  = "refused"  // a gate said no; what was released before stays
	ModelFailed   = "failed"   // so too
)

// Summary is what became of a refresh.
type Summary struct {
	Schema   string               `json:"schema"`
	Curation string               `json:"curation"`
	Store    string               `json:"store"`
	Began    time.Time            `json:"began"`
	Seconds  float64              `json:"seconds"`
	DryRun   bool                 `json:"dry_run,omitempty"`
	Outcome  string               `json:"outcome"`
	Error    string               `json:"error,omitempty"` // that stopped it
	Made     int                  `json:"made"`            // variants, in this run
	Refused  int                  `json:"refused"`         // variants, in this run or before
	Failed   int                  `json:"failed"`          // variants, in this run
	Read     int64                `json:"bytes_read"`
	Written  int64                `json:"bytes_written"`
	Models   []ModelSummary       `json:"models"`
	Plan     []PlannedStep        `json:"plan"`
	Build    *catalog.BuildResult `json:"build,omitempty"`
	Signed   []string             `json:"signed,omitempty"` // objects
	Notes    []string             `json:"notes,omitempty"`
}

// ModelSummary is what became of a model.
type ModelSummary struct {
	Model    string           `json:"model"`
	State    string           `json:"state"`
	Reason   string           `json:"reason,omitempty"`
	Retry    bool             `json:"retry,omitempty"` // a later run may do better
	Commit   string           `json:"commit,omitempty"`
	Variants []VariantSummary `json:"variants"`
	Releases []ReleaseSummary `json:"releases,omitempty"` // that were made or promoted
	Notes    []string         `json:"notes,omitempty"`
}

// VariantSummary is what there is of a variant.
type VariantSummary struct {
	Variant string         `json:"variant"`
	State   string         `json:"state"` // done, refused, failed, missing
	ID      string         `json:"id,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Gates   []catalog.Gate `json:"gates,omitempty"`
}

// stateMissing is a variant that was not made, for it was not its turn.
const stateMissing = "missing"

// tally counts a result.
func (s *Summary) tally(r Result) {
	s.Read, s.Written = s.Read+r.Read, s.Written+r.Written
	if r.Kind == KindMake && r.State == StateDone {
		s.Made++
	}
}

// models says what became of the models.
func (s *Summary) models(runs []*modelRun) {
	s.Models = []ModelSummary{}
	for _, m := range runs {
		x := m.summary(s.DryRun)
		for _, v := range x.Variants {
			switch v.State {
			case StateRefused:
				s.Refused++
			case StateFailed:
				s.Failed++
			}
		}
		s.Models = append(s.Models, x)
	}
}

// summary says what became of a model.
func (m *modelRun) summary(dry bool) ModelSummary {
	out := ModelSummary{Model: m.Slug, State: ModelCurrent, Commit: m.upstream.commit, Variants: []VariantSummary{}, Releases: m.releases, Notes: m.notes}
	var refused, failed []string
	retry := true
	for i, v := range m.variants {
		x := VariantSummary{Variant: v.Name, State: stateMissing}
		if i < len(m.made) && m.made[i].State != "" {
			o := m.made[i]
			x.State, x.ID, x.Reason, x.Gates = o.State, o.Variant, o.Reason, o.Gates
		}
		if f, ok := m.failed[v.Name]; ok {
			x.State, x.Reason = StateFailed, f.Reason
			retry = retry && f.Retry
			failed = append(failed, v.Name+": "+f.Reason)
		}
		if x.State == StateRefused {
			refused = append(refused, v.Name+": "+x.Reason)
		}
		out.Variants = append(out.Variants, x)
	}
	switch {
	case m.problem != nil:
		out.State, out.Reason, out.Retry = ModelFailed, oneLine(m.problem), unavailable(m.problem)
	case len(failed) > 0:
		out.State, out.Reason, out.Retry = ModelFailed, strings.Join(failed, "; "), retry
	case m.refused != "":
		out.State, out.Reason = ModelRefused, m.refused
	case len(refused) > 0:
		out.State, out.Reason = ModelRefused, strings.Join(refused, "; ")
	case len(m.releases) > 0:
		out.State = ModelReleased
	case m.began && dry, dry && m.unreleased(false) != "":
		out.State = ModelPlanned
	case m.began:
		out.State = ModelMade
	}
	return out
}

// finish says what became of all of it.
func (s *Summary) finish(err error) {
	if s.Models == nil {
		s.Models = []ModelSummary{}
	}
	if s.Plan == nil {
		s.Plan = []PlannedStep{}
	}
	if err != nil {
		s.Error = oneLine(err)
	}
	is := func(state string, retry bool) bool {
		return slices.ContainsFunc(s.Models, func(m ModelSummary) bool { return m.State == state && m.Retry == retry })
	}
	switch {
	case errors.Is(err, ErrUsage):
		s.Outcome = OutcomeUsage
	case errors.Is(err, ErrLocked), errors.Is(err, ErrLeaseLost), errors.Is(err, context.Canceled), unavailable(err):
		s.Outcome = OutcomeUnavailable
	case errors.Is(err, trust.ErrMissingSignatures), errors.Is(err, trust.ErrUntrusted):
		s.Outcome = OutcomeRefused
	case err != nil, is(ModelFailed, false):
		s.Outcome = OutcomeFailed
	case is(ModelFailed, true):
		s.Outcome = OutcomeUnavailable
	case is(ModelRefused, false):
		s.Outcome = OutcomeRefused
	default:
		s.Outcome = OutcomeDone
	}
}

// unsigned notes that a catalog was changed and not signed in a store that is.
func (s *Summary) unsigned(ctx context.Context, b *catalog.BuildResult, store publish.Store) error {
	if !slices.ContainsFunc(b.Channels, func(c catalog.ChannelResult) bool { return c.Changed }) {
		return nil
	}
	for _, err := range store.List(ctx, "metadata/") {
		if err != nil {
			return err
		}
		s.Notes = append(s.Notes, "the catalog has changed and was not signed: nodes see what was signed before, until catalog sign, or a refresh with --trust")
		break
	}
	return nil
}

// Named lists the models of a state with why, for a message.
func (s *Summary) Named(state string) string {
	var out []string
	for _, m := range s.Models {
		if m.State == state {
			out = append(out, m.Model+": "+m.Reason)
		}
	}
	return strings.Join(out, "; ")
}

// WriteText writes a summary for people: a line for each model that is not
// current, and what was done.
func (s *Summary) WriteText(w io.Writer) error {
	current := 0
	for _, m := range s.Models {
		line := m.Model + ": " + m.State
		for _, r := range m.Releases {
			line += fmt.Sprintf(", release %d of %s", r.Version, r.Channel)
		}
		if m.Reason != "" {
			line += ": " + m.Reason
		}
		if m.State == ModelCurrent && len(m.Notes) == 0 {
			current++
			continue
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
		for _, n := range m.Notes {
			if _, err := fmt.Fprintf(w, "  %s\n", n); err != nil {
				return err
			}
		}
	}
	for _, n := range s.Notes {
		if _, err := fmt.Fprintln(w, n); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d models, %d of them as they were; %d variants made, %d refused, %d failed in %.1f s\n", len(s.Models), current, s.Made, s.Refused, s.Failed, s.Seconds)
	return err
}

// WritePlan writes the plan as a table.
func (s *Summary) WritePlan(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MODEL\tVARIANT\tSTEP\tREAD\tWRITE\tMINUTES\tWHY")
	var read, write int64
	total := 0.0
	for _, p := range s.Plan {
		figures := "\t\t"
		if p.Step == StepMake || p.Step == StepCalibrate || p.Step == StepLosses {
			figures = fmt.Sprintf("%d\t%d\t%.2f", p.Read, p.Write, p.Minutes)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", p.Model, p.Variant, p.Step, figures, p.Why)
		read, write, total = read+p.Read, write+p.Write, total+p.Minutes
	}
	fmt.Fprintf(t, "\t\ttotal\t%d\t%d\t%.2f\n", read, write, total)
	return t.Flush()
}
