package face

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"log/slog"
	"strings"
	"time"
)

// DefaultGallery is the gallery that every tenant has from the start.
const DefaultGallery = "default"

// DefaultTenant is the tenant of keys that name none, and of AUTH=off.
const DefaultTenant = "default"

// Gallery is a set of subjects that is searched together.
type Gallery struct {
	ID            string // unique within the tenant; the `name` of the contract
	ModelID       string // the encoder that the gallery is searched with; empty: the server's
	NextModelID   string // the encoder that it is being moved to; empty: none
	RetentionDays int    // templates older than this are purged; 0 keeps them
	StoreImages   bool   // whether sealed crops are kept
	Subjects      int    // count
	Templates     int    // count, of all models
	CreatedAt     time.Time
}

// Subject is a person who is enrolled, or is being enrolled.
type Subject struct {
	ID         string // unique within the gallery
	Name       string
	ExternalID string
	Metadata   json.RawMessage // a JSON object of at most MaxMetadata bytes, or nil
	Templates  int             // count, of all models
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// LogValue keeps names and metadata out of logs.
func (s Subject) LogValue() slog.Value { return slog.StringValue("subject " + s.ID) }

// Template is a stored reference: an embedding, the model that made it, and
// the quality of the sample it came from.
type Template struct {
	ID        string // unique within the store
	SubjectID string
	SampleID  string // the same for all templates made from one photo by several models; empty: the ID
	ModelID   string
	Embedding Embedding // L2-normalised; nil if the stored one is damaged
	Quality   float32   // 0..1
	CreatedAt time.Time
	Crop      []byte // the sample's sealed crop, on its way into or out of a store; nil otherwise
}

// LogValue keeps the embedding out of logs.
func (t Template) LogValue() slog.Value { return slog.StringValue("template " + t.ID) }

// Candidate is one subject of a candidate list. A list has at most one
// candidate per subject.
type Candidate struct {
	SubjectID string
	Name      string
	Templates int     // of the subject, which [FuseEmbeddings] made one of to be compared
	Score     float64 // cosine similarity of the probe with that, -1..1
}

// Receipt says what an erase removed, and which audit record tells of it.
type Receipt struct {
	Gallery   string
	SubjectID string // empty when a whole gallery was erased
	Subjects  int
	Templates int
	Images    int
	AuditID   string
}

// Limits of the contract.
const (
	MaxMetadata   = 4 << 10 // bytes of a subject's metadata
	MaxNameLength = 200     // runes of a name or an external id
)

// NewID makes a random identifier of 26 lower-case letters and digits
// (at least 128 bits).
func NewID() string { return strings.ToLower(rand.Text()) }

// SampleTemplateID is the id of the template that a further model makes from a
// sample. It depends only on the sample and the model, so that a sample never
// gets two templates of one model.
func SampleTemplateID(sample, modelID string) string {
	sum := sha256.Sum256([]byte(sample + "\x00" + modelID))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:26])
}

// IDRule says of an id that [ValidID] refuses what it must be.
const IDRule = "must be 1 to 128 letters, digits and ._@-, the first a letter or a digit"

// ValidID reports whether s may name a gallery, a subject or a tenant: 1 to
// 128 letters, digits and ._@-, the first a letter or a digit. Such a name
// needs no escaping in a URL, a log or a file name.
func ValidID(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._@-", rune(c))) {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 128
}
