package tokenizer

import "fmt"

// Difference is the first place where two encoders disagree.
type Difference struct {
	Text      int // index of the text
	Position  int // index of the first id that differs
	Want, Got []int32
	// WantErr and GotErr are set where an encoder failed.
	WantErr, GotErr error
}

// contextIDs is how many ids Error shows before the place.
const contextIDs = 3

// Error describes the difference with a few ids around it.
func (d *Difference) Error() string {
	if d.WantErr != nil || d.GotErr != nil {
		return fmt.Sprintf("text %d: encoders fail differently: want %v, got %v", d.Text, d.WantErr, d.GotErr)
	}
	around := func(ids []int32) []int32 {
		return ids[max(0, d.Position-contextIDs):min(len(ids), d.Position+contextIDs+1)]
	}
	return fmt.Sprintf("text %d: token %d differs: want ...%v..., got ...%v...", d.Text, d.Position, around(d.Want), around(d.Got))
}

// Compare encodes texts by both encoders and returns the first difference; nil
// where there is none. Texts that both encoders refuse are equal.
func Compare(want, got Encoder, texts []string, opts EncodeOptions) *Difference {
	for i, text := range texts {
		if d := compareText(want, got, text, opts); d != nil {
			d.Text = i
			return d
		}
	}
	return nil
}

func compareText(want, got Encoder, text string, opts EncodeOptions) *Difference {
	w, wantErr := want.Encode(text, opts)
	g, gotErr := got.Encode(text, opts)
	if wantErr != nil && gotErr != nil {
		return nil
	}
	d := &Difference{Want: w, Got: g, WantErr: wantErr, GotErr: gotErr}
	if wantErr != nil || gotErr != nil {
		return d
	}
	for d.Position < min(len(w), len(g)) && w[d.Position] == g[d.Position] {
		d.Position++
	}
	if d.Position == len(w) && d.Position == len(g) {
		return nil
	}
	return d
}
