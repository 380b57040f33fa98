package export

import "github.com/modelpipe/modelpipe/catalog"

// openAIModel is an element of the answer to GET /v1/models
// (https://platform.openai.com/docs/api-reference/models).
type openAIModel struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`

	pairings []catalog.Pairing
}

func init() {
	register(format[openAIModel]{
		name:  "openai",
		reads: "clients of OpenAI's API, as GET /v1/models",
		entry: func(_ *job, m *catalog.Model) (openAIModel, error) {
			return openAIModel{m.Slug, "model", m.Created.Unix(), m.Vendor, m.Pairings}, nil
		},
		write: func(j *job, models []openAIModel) ([]File, error) {
			list := append([]openAIModel{}, models...)
			for _, p := range pairings(j, models, func(m openAIModel) (string, []catalog.Pairing) { return m.ID, m.pairings }) {
				list = append(list, openAIModel{ID: p.Name, Object: "model", Created: max(p.light.Created, p.heavy.Created), OwnedBy: p.heavy.OwnedBy})
			}
			return one(jsonList("openai/models.json", "{\n  \"data\": ", ",\n  \"object\": \"list\"\n}", list))
		},
	})
}
