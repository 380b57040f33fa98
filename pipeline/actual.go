package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
)

// This file says what is: what a store holds of the models, and what was made
// of which inputs.

// maxState bounds the object with the state of a model.
const maxState = 16 << 20

// stateName is the object that says what was made of a model's inputs.
func stateName(slug string) string { return path.Join("refresh", "models", slug+".json") }

// outcome is what came of some inputs, for good: equal inputs come to the same.
type outcome struct {
	Inputs  Inputs         `json:"inputs"`
	State   string         `json:"state"`             // done or refused
	Variant string         `json:"variant,omitempty"` // ID in the store, where it is done
	Reason  string         `json:"reason,omitempty"`  // where it is refused
	Gates   []catalog.Gate `json:"gates,omitempty"`   // as they were judged
}

// pin is the commit that a pinned model keeps.
type pin struct {
	Source   string `json:"source"`
	Revision string `json:"revision"`
	Commit   string `json:"commit"`
}

// stateDocument is the object stateName. It follows from what was done: it has
// no times, and whoever loses it makes the same again.
type stateDocument struct {
	Version  int                `json:"version"`
	Model    string             `json:"model"`
	Pin      *pin               `json:"pin,omitempty"`
	License  string             `json:"license,omitempty"` // that the source named when it was last released
	Outcomes map[string]outcome `json:"outcomes"`          // by the identity of their inputs
}

// modelState is what a store holds of a model.
type modelState struct {
	doc     stateDocument
	version publish.Version // of the document
	data    string          // of the document
	ledger  *catalog.Ledger // nil where there are no releases
	records map[string]bool // by ID of a variant
	err     error           // why it cannot be read
}

// actual is what a store holds.
type actual struct {
	models map[string]*modelState // by slug: all that are asked for
}

// readActual reads what a store holds of some models. A store of nil holds
// nothing.
func readActual(ctx context.Context, s publish.Store, models []*wantedModel) (*actual, error) {
	a := &actual{models: map[string]*modelState{}}
	for _, m := range models {
		a.models[m.Slug] = &modelState{doc: stateDocument{Version: 1, Model: m.Slug, Outcomes: map[string]outcome{}}, records: map[string]bool{}}
	}
	if s == nil {
		return a, nil
	}
	ledgers, states := map[string]bool{}, map[string]bool{}
	for e, err := range s.List(ctx, "models/") {
		if err != nil {
			return nil, err
		}
		slug, rest, _ := strings.Cut(strings.TrimPrefix(e.Name, "models/"), "/")
		m := a.models[slug]
		if m == nil {
			continue
		}
		if e.Name == catalog.LedgerName(slug) {
			ledgers[slug] = true
		}
		if id, name, ok := strings.Cut(rest, "/"); ok && name == catalog.RecordName {
			m.records[id] = true
		}
	}
	for e, err := range s.List(ctx, "refresh/models/") {
		if err != nil {
			return nil, err
		}
		states[e.Name] = true
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, lookers)
	for slug, m := range a.models {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			m.err = m.read(ctx, s, slug, ledgers[slug], states[stateName(slug)])
		})
	}
	wg.Wait()
	for _, m := range a.models { // another error is of the model alone
		if m.err != nil && (ctx.Err() != nil || errors.Is(m.err, publish.ErrUnavailable) || errors.Is(m.err, publish.ErrRefused)) {
			return nil, m.err
		}
	}
	return a, nil
}

// read reads the documents of a model that are there.
func (m *modelState) read(ctx context.Context, s publish.Store, slug string, ledger, state bool) (err error) {
	if ledger {
		if m.ledger, err = catalog.ReadLedger(ctx, s, slug); err != nil {
			return err
		}
	}
	if !state {
		return nil
	}
	data, version, err := s.Get(ctx, stateName(slug), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var doc stateDocument
	if err := json.Unmarshal(data, &doc); err != nil || doc.Version != 1 || doc.Model != slug || doc.Outcomes == nil {
		return fmt.Errorf("%s: is not what a refresh has written: remove it, and everything is made again", stateName(slug))
	}
	m.doc, m.version, m.data = doc, version, string(data)
	return nil
}

// pinned is the commit that a model keeps, or empty.
func (m *modelState) pinned(w *wantedModel) string {
	p := m.doc.Pin
	if w.Update != catalog.UpdatePin || p == nil || p.Source != w.Source || p.Revision != w.Revision {
		return ""
	}
	return p.Commit
}

// have is what was made of some inputs, where it is still there.
func (m *modelState) have(id string) (outcome, bool) {
	o, ok := m.doc.Outcomes[id]
	return o, ok && (o.State == StateRefused || m.records[o.Variant])
}

// save writes the document where it has changed. Outcomes that are neither
// wanted nor of a release are left out.
func (m *modelState) save(ctx context.Context, s publish.Store, wanted []string) error {
	released := map[string]bool{}
	if m.ledger != nil {
		for _, r := range m.ledger.Releases {
			for _, id := range r.Variants {
				released[id] = true
			}
		}
	}
	for id, o := range m.doc.Outcomes {
		if !slices.Contains(wanted, id) && !released[o.Variant] {
			delete(m.doc.Outcomes, id)
		}
	}
	data, err := json.MarshalIndent(m.doc, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if string(data) == m.data {
		return nil
	}
	version, err := s.Put(ctx, stateName(m.doc.Model), data, m.version)
	if err != nil {
		return err
	}
	m.version, m.data = version, string(data)
	return nil
}
