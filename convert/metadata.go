package convert

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/modelpipe/modelpipe/gguf"
)

// The general.* keys say who made a model, from what, and under which terms.
// They come from the model card (the YAML in front of README.md), from
// generation_config.json, and, where these say nothing, from the model's name,
// which on the Hub follows a loose grammar: basename-size-finetune-version.
// The rules are those of gguf-py's metadata.py, so that files carry the same
// keys as upstream's.

// parameterCount is what the size label is computed from.
type parameterCount struct {
	total, shared, expert int64 // expert: one of each stack
	experts               int64 // mean number in a stack
}

func countParameters(outs []output) parameterCount {
	var c parameterCount
	var sum, stacks int64
	for _, out := range outs {
		if out.copy {
			continue
		}
		n := product(out.shape)
		c.total += n
		axis := len(out.shape) - 3
		if strings.Contains(out.name, ".bias") {
			axis++
		}
		if !strings.Contains(out.name, "_exps.") || len(out.shape) < 3 {
			c.shared += n
			continue
		}
		c.expert += n / out.shape[axis]
		sum += out.shape[axis]
		stacks++
	}
	if stacks > 0 {
		c.experts = sum / stacks
	}
	return c
}

// sizeLabel is the parameter count as in "7B" or "8x7B".
func (c parameterCount) sizeLabel() string {
	if c.experts > 0 {
		return fmt.Sprintf("%dx%s", c.experts, roundedCount(c.shared+c.expert))
	}
	return roundedCount(c.total)
}

// roundedCount writes a count in thousands, millions, ... with at least two
// digits.
func roundedCount(n int64) string {
	scaled, suffix := float64(n)*1e-3, "K"
	switch {
	case n > 1e12:
		scaled, suffix = float64(n)*1e-12, "T"
	case n > 1e9:
		scaled, suffix = float64(n)*1e-9, "B"
	case n > 1e6:
		scaled, suffix = float64(n)*1e-6, "M"
	}
	whole := strings.TrimLeft(strconv.FormatFloat(math.RoundToEven(scaled), 'f', 0, 64), "0")
	return strconv.FormatFloat(scaled, 'f', max(2-len(whole), 0), 64) + suffix
}

// authorship is the general metadata on its way; "" is not known.
type authorship struct {
	name, author, version, organization, finetune, basename, description string
	sizeLabel, license, licenseName, licenseLink                         string
	sourceURL, sourceDOI, sourceUUID, sourceRepo                         string
	bases, datasets                                                      []lineage
	hasBases, hasDatasets                                                bool
	tags, languages                                                      []string
}

// lineage is a model or a dataset that a model was made from.
type lineage struct{ name, author, version, organization, description, url, doi, uuid, repo string }

// generalMetadata returns the general.* keys in upstream's order, and what
// could not be read.
func generalMetadata(source fs.FS, c *Config, o Options, count parameterCount) (gguf.Metadata, []string, error) {
	card, notes, err := readCard(source)
	if err != nil {
		return nil, nil, err
	}
	var a authorship
	a.fromCard(card, count.total)
	if id, err := c.Text("_name_or_path"); err == nil && strings.Count(id, "/") <= 1 {
		a.fromID(id, count.total)
	}
	switch {
	case o.Repository != "":
		a.fromID(o.Repository, count.total)
	case o.Source != "":
		a.fromID(path.Base(o.Source), count.total)
	}
	if o.Name != "" {
		a.name = o.Name
	}
	if a.name == "" {
		a.name = "model"
	}
	if a.sizeLabel == "" && count.total > 0 {
		a.sizeLabel = count.sizeLabel()
	}
	md, err := samplingMetadata(source)
	if err != nil {
		return nil, nil, err
	}
	return append(md, a.metadata()...), notes, nil
}

// samplingKeys are the recommended sampler settings of generation_config.json.
var samplingKeys = []struct {
	key    string
	kind   gguf.ValueType
	fields []string
}{
	{"sequence", str, []string{"sequence"}},
	{"top_k", gguf.Int32, []string{"top_k"}},
	{"top_p", f32, []string{"top_p"}},
	{"min_p", f32, []string{"min_p"}},
	{"xtc_probability", f32, []string{"xtc_probability"}},
	{"xtc_threshold", f32, []string{"xtc_threshold"}},
	{"temp", f32, []string{"temperature"}},
	{"penalty_last_n", gguf.Int32, []string{"penalty_last_n"}},
	{"penalty_repeat", f32, []string{"penalty_repeat", "repetition_penalty"}},
	{"mirostat", gguf.Int32, []string{"mirostat"}},
	{"mirostat_tau", f32, []string{"mirostat_tau"}},
	{"mirostat_eta", f32, []string{"mirostat_eta"}},
}

func samplingMetadata(source fs.FS) (gguf.Metadata, error) {
	fields, err := readFields(source, "generation_config.json")
	if err != nil {
		return nil, err
	}
	c := Config{fields}
	var md gguf.Metadata
	for _, k := range samplingKeys {
		v, name, ok := c.Raw(k.fields...)
		if !ok {
			continue
		}
		value, err := convertScalar(k.kind, v)
		if err != nil {
			return nil, fmt.Errorf("generation_config.json: %s: %w", name, err)
		}
		md.Set("general.sampling."+k.key, value)
	}
	return md, nil
}

// readCard returns the YAML front matter of README.md as a map, nil where
// there is none. A card that is not YAML is left out with a note: nothing of
// the weights depends on it.
func readCard(source fs.FS) (map[string]*yaml.Node, []string, error) {
	data, err := readFile(source, "README.md")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	lines := strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	if lines[0] != "---" {
		return nil, nil, nil
	}
	front := lines[1:]
	if end := slices.Index(front, "---"); end >= 0 {
		front = front[:end]
	}
	var card map[string]*yaml.Node
	nodes := map[string]yaml.Node{}
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(strings.Join(front, "\n"), "\t", "  ")), &nodes); err != nil {
		return nil, []string{"README.md: the front matter is left out: " + strings.ReplaceAll(err.Error(), "\n", " ")}, nil
	}
	card = make(map[string]*yaml.Node, len(nodes))
	for k, n := range nodes {
		card[k] = &n
	}
	return card, nil, nil
}

// scalar is the text of a plain value, "" for null and everything else.
func scalar(n *yaml.Node) string {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

// items are the elements of a list, or the one value that stands for a list.
func items(n *yaml.Node) []*yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n == nil:
		return nil
	case n.Kind == yaml.SequenceNode:
		return n.Content
	case scalar(n) != "":
		return []*yaml.Node{n}
	}
	return nil
}

func texts(n *yaml.Node) []string {
	var out []string
	for _, e := range items(n) {
		if s := scalar(e); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// fromCard takes what a model card says. Of several keys for one thing the
// first counts.
func (a *authorship) fromCard(card map[string]*yaml.Node, total int64) {
	take := func(to *string, keys ...string) {
		for _, k := range keys {
			if *to == "" {
				*to = scalar(card[k])
			}
		}
	}
	take(&a.name, "name", "model_name")
	take(&a.author, "author", "model_author", "model_creator")
	take(&a.version, "version", "model_version")
	take(&a.organization, "organization", "model_organization")
	take(&a.description, "description", "model_description")
	take(&a.finetune, "finetune", "model_finetune")
	take(&a.basename, "basename", "model_basename", "model_type")
	take(&a.sizeLabel, "size_label", "model_size_label")
	take(&a.sourceURL, "url", "model_url")
	take(&a.sourceDOI, "doi", "model_doi")
	take(&a.sourceUUID, "uuid", "model_uuid")
	take(&a.sourceRepo, "repo_url", "model_repo_url")
	for _, k := range []string{"base_model", "base_models", "base_model_sources"} {
		if n, ok := card[k]; ok {
			a.hasBases, a.bases = true, lineages(n, total)
			break
		}
	}
	for _, k := range []string{"datasets", "dataset", "dataset_sources"} {
		if n, ok := card[k]; ok {
			a.hasDatasets, a.datasets = true, lineages(n, total)
			break
		}
	}
	a.license = strings.Join(texts(card["license"]), ",")
	take(&a.licenseName, "license_name")
	take(&a.licenseLink, "license_link")
	a.tags = append(texts(card["tags"]), texts(card["pipeline_tag"])...)
	a.languages = append(texts(card["languages"]), texts(card["language"])...)
}

var hubURL = regexp.MustCompile(`^https?://huggingface.co/([^/]+/[^/]+)$`)

// lineages reads entries that are Hub ids, URLs, or maps with their own keys.
func lineages(n *yaml.Node, total int64) []lineage {
	var out []lineage
	for _, e := range items(n) {
		var l lineage
		if e.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(e.Content); i += 2 {
				l.set(e.Content[i].Value, scalar(e.Content[i+1]))
			}
			out = append(out, l)
			continue
		}
		id := scalar(e)
		isURL := strings.HasPrefix(id, "http://") || strings.HasPrefix(id, "https://") || strings.HasPrefix(id, "ssh://")
		if isURL {
			l.repo = id
			match := hubURL.FindStringSubmatch(id)
			if match == nil {
				out = append(out, l)
				continue
			}
			id = match[1]
		}
		parts := parseID(id, total)
		l.name, l.version = title(parts.name), parts.version
		if parts.organization != "" {
			l.organization = title(parts.organization)
			if !isURL {
				l.repo = "https://huggingface.co/" + parts.organization + "/" + parts.name
			}
		}
		out = append(out, l)
	}
	return out
}

func (l *lineage) set(key, value string) {
	for _, f := range l.fields() {
		if f.key == key {
			*f.value = value
		}
	}
}

type namedText struct {
	key   string
	value *string
}

func (l *lineage) fields() []namedText {
	return []namedText{
		{"name", &l.name}, {"author", &l.author}, {"version", &l.version}, {"organization", &l.organization},
		{"description", &l.description}, {"url", &l.url}, {"doi", &l.doi}, {"uuid", &l.uuid}, {"repo_url", &l.repo},
	}
}

// fromID fills what is still unknown from the model's name.
func (a *authorship) fromID(id string, total int64) {
	parts := parseID(id, total)
	fill := func(to *string, v string) {
		if *to == "" {
			*to = v
		}
	}
	fill(&a.name, title(parts.name))
	fill(&a.organization, title(parts.organization))
	fill(&a.basename, parts.basename)
	fill(&a.finetune, parts.finetune)
	fill(&a.version, parts.version)
	fill(&a.sizeLabel, parts.sizeLabel)
}

func (a *authorship) metadata() gguf.Metadata {
	var md gguf.Metadata
	add := func(key, value string) {
		if value != "" {
			md = append(md, gguf.KV{Key: "general." + key, Value: value})
		}
	}
	add("name", a.name)
	add("author", a.author)
	add("version", a.version)
	add("organization", a.organization)
	add("finetune", a.finetune)
	add("basename", a.basename)
	add("description", a.description)
	add("size_label", a.sizeLabel)
	add("license", a.license)
	add("license.name", a.licenseName)
	add("license.link", a.licenseLink)
	add("source.url", a.sourceURL)
	add("source.doi", a.sourceDOI)
	add("source.uuid", a.sourceUUID)
	add("source.repo_url", a.sourceRepo)
	list := func(kind string, has bool, entries []lineage) {
		if !has {
			return
		}
		md = append(md, gguf.KV{Key: "general." + kind + ".count", Value: uint32(len(entries))})
		for i := range entries {
			for _, f := range entries[i].fields() {
				add(kind+"."+strconv.Itoa(i)+"."+f.key, *f.value)
			}
		}
	}
	list("base_model", a.hasBases, a.bases)
	list("dataset", a.hasDatasets, a.datasets)
	if len(a.tags) > 0 {
		md = append(md, gguf.KV{Key: "general.tags", Value: a.tags})
	}
	if len(a.languages) > 0 {
		md = append(md, gguf.KV{Key: "general.languages", Value: a.languages})
	}
	return md
}

// idParts is a model's name taken apart.
type idParts struct{ name, organization, basename, finetune, version, sizeLabel string }

var (
	versionPart  = regexp.MustCompile(`(?i)^(v|iter)?\d+([.]\d+)*$`)
	typePart     = regexp.MustCompile(`(?i)^(i?q\d(_\w)*|b?fp?(16|32))$`)
	sizePart     = regexp.MustCompile(`(?i)^((A|\d+x)?\d+([._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl)$`)
	finetunePart = regexp.MustCompile(`(?i)^(chat|instruct|vision|lora)$`)
)

// Roles that a part of a name can have; a part may have several.
const (
	roleBasename = 1 << iota
	roleSize
	roleFinetune
	roleVersion
	roleType
)

// parseID takes "org/Base-7B-Instruct-v0.2" apart (gguf-py metadata.py,
// get_model_id_components). total is the model's parameter count: a size that
// is far from it is a context length and counts to the finetune.
func parseID(id string, total int64) idParts {
	if strings.Contains(id, " ") { // a sentence, not an id
		return idParts{name: id}
	}
	var p idParts
	p.name = id
	if org, name, ok := strings.Cut(id, "/"); ok {
		p.organization, p.name = org, name
		if strings.HasPrefix(org, ".") {
			p.organization = ""
		}
	}
	parts := slices.DeleteFunc(strings.Split(p.name, "-"), func(s string) bool { return s == "" })
	roles := make([]int, len(parts))
	for i, part := range parts {
		switch {
		case versionPart.MatchString(part):
			roles[i] = roleVersion
		case typePart.MatchString(part):
			roles[i], parts[i] = roleType, strings.ToUpper(part)
		case i > 0 && sizePart.MatchString(part):
			parts[i], roles[i] = parseSize(part, total)
		case i > 0 && finetunePart.MatchString(part):
			roles[i] = roleFinetune
		}
	}
	dropWordSizes(parts, roles)

	start := true
	for i, part := range parts {
		letter := unicode.IsLetter([]rune(part)[0])
		switch {
		case start && (roles[i] == 0 && letter || roles[i]&roleVersion != 0):
			roles[i] |= roleBasename
		default:
			start = false
			if roles[i] == 0 {
				roles[i] = roleFinetune
			}
		}
	}
	// A version at the end of the basename is a version only.
	for i := len(parts) - 1; i >= 0 && roles[i]&roleBasename != 0 && roles[i] != roleBasename; i-- {
		roles[i] &^= roleBasename
	}
	var basename, finetune, version, sizes []string
	for i, part := range parts {
		if roles[i]&roleBasename != 0 {
			basename = append(basename, part)
		} else if roles[i]&roleVersion != 0 {
			version = append(version, part)
		}
		if roles[i]&roleFinetune != 0 {
			finetune = append(finetune, part)
		}
		if roles[i]&roleSize != 0 && !slices.Contains(sizes, part) {
			sizes = append(sizes, part)
		}
	}
	p.finetune, p.version, p.sizeLabel = strings.Join(finetune, "-"), strings.Join(version, "-"), strings.Join(sizes, "-")
	if p.finetune != "" || p.version != "" || p.sizeLabel != "" { // else it is too ambiguous
		p.basename = strings.Join(basename, "-")
	}
	return p
}

// parseSize normalises a size such as "7b1" or "3_8b".
func parseSize(part string, total int64) (string, int) {
	part = strings.ReplaceAll(part, "_", ".")
	isDigit := func(i int) bool { return i >= 0 && part[i] >= '0' && part[i] <= '9' }
	if n := len(part); isDigit(n-1) && n >= 2 {
		part = part[:n-2] + "." + part[n-1:] + part[n-2:n-1]
	}
	if n := len(part); isDigit(n-2) && strings.ContainsRune("kmbt", rune(part[n-1])) {
		part = part[:n-1] + strings.ToUpper(part[n-1:])
	}
	if total == 0 {
		return part, roleSize
	}
	n := len(part)
	label, err := strconv.ParseFloat(part[:n-1], 64)
	if err != nil {
		return part, roleSize
	}
	label *= math.Pow(1000, float64(strings.Index(" KMBT", part[n-1:])))
	if math.Abs(label-float64(total)) > float64(7*total/8) {
		return part[:n-1] + strings.ToLower(part[n-1:]), roleFinetune
	}
	return part, roleSize
}

// dropWordSizes takes the size from words such as "small" where a number says
// it.
func dropWordSizes(parts []string, roles []int) {
	digits := func(s string) bool { return strings.ContainsAny(s, "0123456789") }
	numbered := false
	for i, part := range parts {
		numbered = numbered || roles[i]&roleSize != 0 && digits(part)
	}
	for i, part := range parts {
		if numbered && roles[i]&roleSize != 0 && strings.IndexFunc(part, func(r rune) bool { return !unicode.IsLetter(r) }) < 0 {
			roles[i] &^= roleSize
		}
	}
}

var keepCase = regexp.MustCompile(`^(v\d+(\.\d+)*|\d.*)$`)

// title writes an id for people: words for dashes, capitals where a word has
// none and is not a version.
func title(id string) string {
	words := strings.Fields(strings.ReplaceAll(strings.TrimSpace(id), "-", " "))
	for i, w := range words {
		if strings.ToLower(w) != w || strings.IndexFunc(w, unicode.IsLetter) < 0 || keepCase.MatchString(w) {
			continue
		}
		after := rune(' ')
		words[i] = strings.Map(func(r rune) rune {
			first := !unicode.IsLetter(after)
			after = r
			if first {
				return unicode.ToTitle(r)
			}
			return r
		}, w)
	}
	return strings.Join(words, " ")
}
