package export

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/modelpipe/modelpipe/catalog"
)

// workersAIModel is a model as Cloudflare's catalog of Workers AI describes it
// (https://developers.cloudflare.com/workers-ai/models/).
type workersAIModel struct {
	ID          string              `json:"id"`
	Source      int                 `json:"source"`
	Name        string              `json:"name"`
	Description string              `json:"description"`
	Task        workersAITask       `json:"task"`
	CreatedAt   string              `json:"created_at"`
	Tags        []string            `json:"tags"`
	Properties  []workersAIProperty `json:"properties"`
	Schema      workersAISchema     `json:"schema"`
}

type workersAITask struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
}

// workersAIProperty has a string or a list of prices as its value.
type workersAIProperty struct {
	ID    string `json:"property_id"`
	Value any    `json:"value"`
}

type workersAIPrice struct {
	Unit     string `json:"unit"`
	Price    exact  `json:"price"`
	Currency string `json:"currency"`
}

// workersAISchema holds JSON Schemas of requests and answers.
type workersAISchema struct {
	Input  schema `json:"input"`
	Output schema `json:"output"`
}

type schema map[string]any

// workersAITasks are the tasks of Workers AI that models of ours may have.
var workersAITasks = map[catalog.Task]workersAITask{
	catalog.TextGeneration:     {"c329a1f9-323d-4e91-b2aa-582dd4188d34", "Text Generation", "Writes text that continues a prompt or a conversation."},
	catalog.TextEmbeddings:     {"0137cdcf-162a-4108-94f2-1ca59e8c65ee", "Text Embeddings", "Turns text into vectors for search, clustering and retrieval."},
	catalog.TextClassification: {"19606750-23ed-4371-aab2-c20349b53a60", "Text Classification", "Sorts text into labels or classes."},
	catalog.Reranking:          {"19606750-23ed-4371-aab2-c20349b53a60", "Text Classification", "Scores how well texts answer a query."},
	catalog.Summarization:      {"6f4e65d8-da0f-40d2-9aa4-db582a5a04fd", "Summarization", "Writes a shorter version of a text."},
	catalog.Translation:        {"f57d07cb-9087-487a-bbbf-bc3e17fecc4b", "Translation", "Writes a text in another language."},
	catalog.SpeechRecognition:  {"dfce1c48-2a81-462e-a7fd-de97ce985207", "Automatic Speech Recognition", "Writes down what is said."},
	catalog.ImageToText:        {"882a91d1-c331-4eec-bdad-834c919942a8", "Image-to-Text", "Describes an image."},
}

// workersAIUnits are how prices are named, and for how many units they are.
var workersAIUnits = map[string]struct {
	name string
	per  int64
}{
	catalog.UnitInputToken:       {"per M input tokens", 1_000_000},
	catalog.UnitCachedInputToken: {"per M cached input tokens", 1_000_000},
	catalog.UnitOutputToken:      {"per M output tokens", 1_000_000},
	catalog.UnitReasoningToken:   {"per M reasoning tokens", 1_000_000},
	catalog.UnitRequest:          {"per request", 1},
	catalog.UnitImage:            {"per image", 1},
	catalog.UnitSecond:           {"per second", 1},
}

func init() {
	register(format[json.RawMessage]{
		name:  "workers-ai",
		reads: "Cloudflare Workers AI's model catalog",
		// The schemas are large: what is kept of a model is its text.
		entry: func(j *job, m *catalog.Model) (json.RawMessage, error) {
			w, err := workersAIEntry(j, m)
			if err != nil {
				return nil, err
			}
			return json.Marshal(w)
		},
		write: func(_ *job, models []json.RawMessage) ([]File, error) {
			return one(jsonList("workers-ai/models.json", "", "", models))
		},
	})
}

// WorkersAIRuns returns nil, or why Workers AI does not run the model.
func WorkersAIRuns(m *catalog.Model) error {
	if _, ok := workersAITasks[m.Task]; !ok {
		return unsupported("Workers AI has no task %s", m.Task)
	}
	return nil
}

func workersAIEntry(j *job, m *catalog.Model) (workersAIModel, error) {
	if err := WorkersAIRuns(m); err != nil {
		return workersAIModel{}, err
	}
	w := workersAIModel{
		ID: nameID("workers-ai/" + m.Slug), Source: 1, Name: WorkersAIName(m), Description: m.Description,
		Task: workersAITasks[m.Task], CreatedAt: m.Created.UTC().Format("2006-01-02 15:04:05.000"), Tags: append([]string{}, m.Tags...),
		Schema: workersAISchemas(m),
	}
	set := func(id string, value any) { w.Properties = append(w.Properties, workersAIProperty{id, value}) }
	if m.Task == catalog.TextEmbeddings {
		set("max_input_tokens", strconv.FormatInt(m.Serving.ContextTokens, 10))
		set("output_dimensions", strconv.FormatInt(m.Embedding.Dimensions, 10))
	} else {
		set("context_window", strconv.FormatInt(m.Serving.ContextTokens, 10))
	}
	var prices []workersAIPrice
	for _, p := range m.Serving.Prices {
		if p.Tier != catalog.TierStandard {
			j.note("prices of tier %s have no place", p.Tier)
			continue
		}
		unit := workersAIUnits[p.Unit]
		amount, err := perUnits(p, unit.per)
		if err != nil {
			return w, err
		}
		prices = append(prices, workersAIPrice{unit.name, amount, p.Currency})
	}
	if len(prices) > 0 {
		set("price", prices)
	}
	for _, flag := range []struct {
		id string
		on bool
	}{
		{"function_calling", m.Capabilities.Tools}, {"reasoning", m.Capabilities.Reasoning},
		{"vision", m.Capabilities.Vision}, {"lora", m.Capabilities.LoRA},
		{"async_queue", slices.ContainsFunc(m.Serving.Prices, func(p catalog.Price) bool { return p.Tier == "batch" })},
	} {
		if flag.on {
			set(flag.id, "true")
		}
	}
	if m.Homepage != "" {
		set("info", m.Homepage)
	}
	if m.License.URL != "" {
		set("terms", m.License.URL)
	}
	if m.Deprecated != nil {
		set("planned_deprecation_date", m.Deprecated.At.UTC().Format("2006-01-02"))
	}
	return w, nil
}

// nameID is the UUID, version 5, of a name in the namespace of this program's
// catalogs, so that a model keeps its ID.
func nameID(name string) string {
	h := sha1.New()
	h.Write([]byte(catalog.SchemaID + "#" + name))
	b := h.Sum(nil)[:16]
	b[6] = b[6]&0x0f | 0x50
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func object(required []string, properties schema) schema {
	return schema{"type": "object", "properties": properties, "required": required}
}

func arrayOf(items schema) schema { return schema{"type": "array", "items": items} }

var (
	stringSchema  = schema{"type": "string"}
	integerSchema = schema{"type": "integer"}
	numberSchema  = schema{"type": "number"}
)

// workersAISchemas returns the schemas of a model's requests and answers.
func workersAISchemas(m *catalog.Model) workersAISchema {
	texts := schema{"oneOf": []schema{stringSchema, arrayOf(stringSchema)}}
	switch m.Task {
	case catalog.TextGeneration:
		return workersAIChat(m)
	case catalog.TextEmbeddings:
		return workersAISchema{
			object([]string{"text"}, schema{"text": texts}),
			object([]string{"shape", "data"}, schema{
				"shape":   arrayOf(integerSchema),
				"data":    arrayOf(arrayOf(numberSchema)),
				"pooling": schema{"type": "string", "enum": []string{"mean", "cls"}},
			}),
		}
	case catalog.Reranking:
		return workersAISchema{
			object([]string{"query", "contexts"}, schema{
				"query": stringSchema, "top_k": schema{"type": "integer", "minimum": 1},
				"contexts": arrayOf(object([]string{"text"}, schema{"text": stringSchema})),
			}),
			object([]string{"response"}, schema{"response": arrayOf(object([]string{"id", "score"}, schema{"id": integerSchema, "score": numberSchema}))}),
		}
	case catalog.TextClassification:
		return workersAISchema{
			object([]string{"text"}, schema{"text": stringSchema}),
			arrayOf(object([]string{"label", "score"}, schema{"label": stringSchema, "score": numberSchema})),
		}
	case catalog.Summarization:
		return workersAISchema{
			object([]string{"input_text"}, schema{"input_text": stringSchema, "max_length": integerSchema}),
			object([]string{"summary"}, schema{"summary": stringSchema}),
		}
	case catalog.Translation:
		return workersAISchema{
			object([]string{"text", "target_lang"}, schema{"text": stringSchema, "source_lang": stringSchema, "target_lang": stringSchema}),
			object([]string{"translated_text"}, schema{"translated_text": stringSchema}),
		}
	case catalog.SpeechRecognition:
		return workersAISchema{
			schema{"oneOf": []schema{{"type": "string", "format": "binary"}, object([]string{"audio"}, schema{"audio": arrayOf(numberSchema)})}},
			object([]string{"text"}, schema{"text": stringSchema, "word_count": numberSchema}),
		}
	default: // image-to-text
		return workersAISchema{
			object([]string{"image"}, schema{"image": arrayOf(numberSchema), "prompt": stringSchema, "max_tokens": integerSchema}),
			object([]string{"description"}, schema{"description": stringSchema}),
		}
	}
}

// workersAIChat returns the schemas of text generation.
func workersAIChat(m *catalog.Model) workersAISchema {
	temperature := schema{"type": "number", "minimum": 0, "maximum": 5}
	maxTokens := schema{"type": "integer"}
	if m.Prompt != nil && m.Prompt.Sampling != nil && m.Prompt.Sampling.Temperature != nil {
		temperature["default"] = *m.Prompt.Sampling.Temperature
	}
	if m.Serving.MaxTokens > 0 {
		maxTokens["maximum"] = m.Serving.MaxTokens
	}
	parameters := func(first string, of schema) schema {
		p := schema{
			first: of, "max_tokens": maxTokens, "temperature": temperature,
			"top_p": schema{"type": "number", "minimum": 0, "maximum": 1}, "top_k": schema{"type": "integer", "minimum": 0},
			"seed": integerSchema, "repetition_penalty": numberSchema,
		}
		if m.Capabilities.Streaming {
			p["stream"] = schema{"type": "boolean", "default": false}
		}
		return p
	}
	messages := parameters("messages", arrayOf(object([]string{"role", "content"}, schema{"role": stringSchema, "content": stringSchema})))
	if m.Capabilities.Tools {
		messages["tools"] = arrayOf(schema{"type": "object"})
	}
	if m.Capabilities.StructuredOutput {
		messages["response_format"] = object([]string{"type"}, schema{
			"type": schema{"type": "string", "enum": []string{"json_object", "json_schema"}}, "json_schema": schema{},
		})
	}
	prompt := parameters("prompt", schema{"type": "string", "minLength": 1})
	prompt["raw"] = schema{"type": "boolean", "default": false}
	answer := schema{
		"response": stringSchema,
		"usage": object([]string{"prompt_tokens", "completion_tokens", "total_tokens"}, schema{
			"prompt_tokens": integerSchema, "completion_tokens": integerSchema, "total_tokens": integerSchema,
		}),
	}
	if m.Capabilities.Tools {
		answer["tool_calls"] = arrayOf(object([]string{"name", "arguments"}, schema{"name": stringSchema, "arguments": schema{"type": "object"}}))
	}
	output := object([]string{"response"}, answer)
	output["contentType"] = "application/json"
	either := []schema{output}
	if m.Capabilities.Streaming {
		either = append(either, schema{"type": "string", "contentType": "text/event-stream", "format": "binary"})
	}
	title := func(t string, s schema) schema { s["title"] = t; return s }
	return workersAISchema{
		Input:  schema{"type": "object", "oneOf": []schema{title("Prompt", object([]string{"prompt"}, prompt)), title("Messages", object([]string{"messages"}, messages))}},
		Output: schema{"oneOf": either},
	}
}
