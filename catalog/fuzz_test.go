package catalog

import (
	"bytes"
	"os"
	"testing"
	"testing/fstest"
)

// FuzzDecode: no document makes a reader panic, and what one accepts it writes
// in a form that it reads as the same.
func FuzzDecode(f *testing.F) {
	data, err := os.ReadFile("testdata/catalog.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"$schema":"` + IndexSchemaID + `","channel":"stable","models":0,"bits":0,"nodes":[{"sha256":"` + string(digest("")) + `","size":1,"models":0}]}`))
	f.Add(reportOf(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		if x, err := DecodeIndex(data); err == nil {
			out, err := Encode(x)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := DecodeIndex(out); err != nil {
				t.Errorf("%s: %v", out, err)
			}
		}
		DecodeRecord(data)
		DecodeLedger(data)
		DecodeQuality(data, digest(""))
		c, err := Decode(data)
		if err != nil {
			return
		}
		for i := range c.Models {
			m := &c.Models[i]
			if m.Validate() == nil {
				m.Default()
			}
		}
		first, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(first)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if second, err := Encode(again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s, then %s: %v", first, second, err)
		}
	})
}

// FuzzCuration: no curation file and no model card makes a reader panic, and a
// draft is a curation file.
func FuzzCuration(f *testing.F) {
	f.Add([]byte(two))
	f.Add([]byte(card))
	f.Fuzz(func(t *testing.T, data []byte) {
		ReadCuration(fstest.MapFS{"catalog.toml": {Data: data}}, "catalog.toml")
		m, notes, err := Draft(Card{Repository: "org/name", Readme: data})
		if err != nil {
			return
		}
		text, err := m.TOML(notes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadCuration(fstest.MapFS{"catalog.toml": {Data: text}}, "catalog.toml"); err != nil {
			// A card may leave out what only a person can say.
			if m.License.SPDX != "" {
				t.Errorf("%s: %v", text, err)
			}
		}
	})
}
