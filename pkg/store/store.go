// Package store says what Likeness keeps, and how a store must behave: galleries,
// subjects, templates, API keys, answers to repeated requests, and the audit
// chain. Packages sqlite and postgres implement it. Both pass the same tests,
// which are in package storetest.
//
// Every call names a tenant, and no call ever sees or touches another tenant's
// rows. Errors are [face.Error] values. The kinds that a method may return are
// listed with it; Internal, Unavailable, StorageFull and the ends of the context
// are always possible. What erases does not fail with StorageFull as long as an
// embedded store has the room that it keeps for that.
package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

// Store keeps galleries, subjects, templates, API keys and the audit chain. What is made with a
// zero CreatedAt is given the present; times are kept in UTC, to the
// microsecond. It is safe for concurrent use. A write is durable (it survives the process and the power)
// before its method returns, and visible to every call that starts afterwards.
type Store interface {
	Galleries
	Subjects
	Templates
	Samples
	Keys
	Idempotency
	Bulk
	Audit

	// Ready reports nil once calls are answered at full speed. Before, the
	// error is Unavailable and its detail says how far loading is.
	Ready(ctx context.Context) error

	// Close waits for writes under way and releases everything. Calls that
	// come later get Unavailable. Closing twice is no error.
	Close() error
}

// Page asks for part of a list, ordered by id. The cursor is opaque: the one
// that came with the previous part, or empty for the first.
type Page struct {
	Limit  int // 1..1000
	Cursor string
}

// Galleries of a tenant. The gallery named [face.DefaultGallery] is always
// there: it is made when it is first looked at.
type Galleries interface {
	// CreateGallery adds an empty gallery. Conflict: the id is taken. Invalid:
	// a tenant or id that [face.ValidID] refuses, or the retention.
	CreateGallery(ctx context.Context, tenant string, g face.Gallery) (face.Gallery, error)
	// Gallery returns a gallery with its counts. NotFound.
	Gallery(ctx context.Context, tenant, gallery string) (face.Gallery, error)
	// ListGalleries lists by id. Invalid: a cursor that this store did not make.
	ListGalleries(ctx context.Context, tenant string, p Page) (items []face.Gallery, next string, err error)
	// UpdateGallery changes the fields that are not nil. NotFound. Invalid.
	UpdateGallery(ctx context.Context, tenant, gallery string, c GalleryChange) (face.Gallery, error)
	// DeleteGallery erases the gallery with everybody in it and leaves an
	// audit record, all in one transaction. NotFound.
	DeleteGallery(ctx context.Context, tenant, gallery string, by Actor) (face.Receipt, error)
	// CountTemplates counts the templates of every gallery of every tenant,
	// for the metrics. It is cheap enough to call at each scrape.
	CountTemplates(ctx context.Context) ([]GalleryCount, error)
}

// GalleryCount is the number of templates in one gallery.
type GalleryCount struct {
	Tenant, Gallery string
	Templates       int
}

// GalleryChange is a partial update; nil leaves a field as it is. Turning
// StoreImages off erases the crops that are kept.
type GalleryChange struct {
	RetentionDays *int
	StoreImages   *bool
	NextModelID   *string // empty ends a move to another model
}

// Subjects of a gallery.
type Subjects interface {
	// CreateSubject adds a subject without templates. NotFound: the gallery.
	// Conflict: the id is taken in this gallery. Invalid: the id, or a name,
	// external id or metadata over the limits of package face.
	CreateSubject(ctx context.Context, tenant, gallery string, s face.Subject) (face.Subject, error)
	// Subject returns a subject with its template count. NotFound.
	Subject(ctx context.Context, tenant, gallery, subject string) (face.Subject, error)
	// ListSubjects lists those that pass the filter, by id. NotFound: the
	// gallery. Invalid: the cursor, which is one of the same filter, or a filter
	// that is no name or external id.
	ListSubjects(ctx context.Context, tenant, gallery string, f SubjectFilter, p Page) (items []face.Subject, next string, err error)
	// UpdateSubject changes the fields that are not nil. NotFound. Invalid.
	UpdateSubject(ctx context.Context, tenant, gallery, subject string, c SubjectChange) (face.Subject, error)
	// DeleteSubject erases the subject and its templates and leaves an audit
	// record, all in one transaction. NotFound.
	DeleteSubject(ctx context.Context, tenant, gallery, subject string, by Actor) (face.Receipt, error)
}

// SubjectFilter passes the subjects that have all that it names, byte for
// byte; what is empty names nothing.
type SubjectFilter struct {
	Name       string
	ExternalID string
}

// SubjectChange is a partial update; nil leaves a field as it is.
type SubjectChange struct {
	Name       *string
	ExternalID *string
	Metadata   *json.RawMessage
}

// Apply makes the change to a subject.
func (c SubjectChange) Apply(s *face.Subject) {
	if c.Name != nil {
		s.Name = *c.Name
	}
	if c.ExternalID != nil {
		s.ExternalID = *c.ExternalID
	}
	if c.Metadata != nil {
		s.Metadata = *c.Metadata
	}
}

// Actor says who erased something, for the audit record.
type Actor struct {
	KeyID     string // empty when authentication is off
	RequestID string
}

// Templates of a subject, and the search over them.
type Templates interface {
	// Enrol adds a template to a subject. Its crop is kept where the gallery
	// stores images, once for each sample. The embedding must be normalised;
	// its length must be that of the other templates of its model in the
	// gallery. A template id that is there already with the same subject,
	// model and embedding is answered with the stored template, so that an
	// enrolment may be repeated. What is answered names its sample and has no
	// crop. NotFound: gallery or subject. Conflict: the id is taken by another
	// template of the gallery, or the sample is another subject's. ModelMismatch: the length.
	// Invalid: numbers that are not finite, or a vector that is not of unit length.
	Enrol(ctx context.Context, tenant, gallery string, t face.Template) (face.Template, error)
	// Templates lists a subject's templates, oldest first, of one model or,
	// with an empty modelID, of all, without crops. One whose stored embedding
	// is damaged has none. NotFound: gallery or subject.
	Templates(ctx context.Context, tenant, gallery, subject, modelID string) ([]face.Template, error)
	// DeleteTemplate erases one template, with the others of its sample and
	// the crop, and leaves an audit record. NotFound.
	DeleteTemplate(ctx context.Context, tenant, gallery, subject, template string, by Actor) (face.Receipt, error)
	// Search compares the probe with every subject of the gallery that has a
	// template of the model, and returns the k best: highest score first, equal
	// scores by subject id. A subject is compared as what [face.FuseEmbeddings]
	// makes of their undamaged templates of the model, in the order of their
	// ids. The scores are those of [face.Embedding.Cosine], and the list is
	// exact. k is 1..1000. A gallery without templates of the model gives an
	// empty list.
	// NotFound: the gallery. ModelMismatch: the probe's length. Invalid: k.
	Search(ctx context.Context, tenant, gallery, modelID string, probe face.Embedding, k int) (Result, error)
	// DamagedTemplates is how many templates are known to have a damaged
	// embedding: its bytes are not those that were written, it is not of unit
	// length or not as long as its model's. They are named in the log and left
	// out of searches. Those that were erased meanwhile are not counted.
	DamagedTemplates(ctx context.Context) (int, error)
	// Comparisons is how many subjects a search of the gallery compares a probe
	// with: those that have an undamaged template of the model. It is cheap
	// enough to call at each search, and 0 for a gallery that is not there.
	Comparisons(ctx context.Context, tenant, gallery, modelID string) (int, error)
	// PurgeExpired erases the templates that are older than their gallery's
	// retention at the given time, over all tenants, leaves an audit record
	// for each gallery touched (several, when a great many went), and returns
	// how many went. It drops the answers past [IdempotencyTTL], too.
	PurgeExpired(ctx context.Context, now time.Time) (int, error)
}

// Bulk moves whole galleries.
type Bulk interface {
	// Import adds subjects with their templates, at most [MaxImport] at a
	// time, all that can be added in one transaction, and says for each what
	// became of it. A subject that is there already keeps what is known of it
	// and gets the templates that it lacks; a template that is there already
	// is left as it is, so an import may be repeated. One that is refused
	// leaves nothing of itself behind and the others alone. NotFound: the
	// gallery. Invalid: too many records. The kinds of the outcomes are those
	// of CreateSubject and Enrol; Conflict: a template id that is taken, or a
	// subject that comes twice.
	Import(ctx context.Context, tenant, gallery string, records []Record) ([]Outcome, error)
	// Export calls emit for each subject after the one with the given id, in
	// order of id, with all its templates, oldest first; the crops are with
	// the first template of their sample. One whose stored embedding is damaged
	// has none, and no crop. It stops at the first error of
	// emit. What is changed meanwhile is in it or not. NotFound: the gallery.
	Export(ctx context.Context, tenant, gallery, after string, emit func(Record) error) error
}

// MaxImport is the most records of one [Bulk.Import].
const MaxImport = 1000

// Record is a subject with its templates.
type Record struct {
	Subject   face.Subject
	Templates []face.Template // SubjectID is the subject's
}

// Outcome is what became of a record of an import.
type Outcome struct {
	Created   bool // the subject was not there before
	Templates int  // those added
	Err       error
}

// Samples are the photos behind the templates. Of a gallery that stores
// images each sample has a crop, sealed by the caller with a key that the
// store never sees; from it another model can make a template.
type Samples interface {
	// Sample returns a sample with its crop. NotFound: it has none.
	Sample(ctx context.Context, tenant, gallery, sample string) (Sample, error)
	// PendingSamples lists, in order of id after the given one, the samples
	// that have a crop and no template of the model, without their crops.
	// NotFound: the gallery. Invalid: a limit that no [Page] has.
	PendingSamples(ctx context.Context, tenant, gallery, modelID, after string, limit int) ([]Sample, error)
	// AddToSample is Enrol for what another model made of a sample that is
	// there already. It must not bring back what was erased meanwhile.
	// NotFound: the gallery, the subject, or the sample has no template (any
	// more). The other errors are Enrol's.
	AddToSample(ctx context.Context, tenant, gallery string, t face.Template) (face.Template, error)
	// Coverage says how far a gallery's move to a model is. NotFound.
	Coverage(ctx context.Context, tenant, gallery, modelID string) (Coverage, error)
	// Uncovered lists the subjects that have a template of some model, none of
	// the given one, and no crop to make it from. NotFound. Invalid: the cursor.
	Uncovered(ctx context.Context, tenant, gallery, modelID string, p Page) (subjects []string, next string, err error)
	// CutOver makes the model the one that the gallery is searched with, and
	// ends the move. Conflict: the gallery is not being moved to it, or a
	// subject that has templates lacks one of it. NotFound.
	CutOver(ctx context.Context, tenant, gallery, modelID string) (face.Gallery, error)
}

// Sample is a photo that was enrolled, as far as it is kept.
type Sample struct {
	ID        string
	SubjectID string
	Quality   float32   // of the template that brought the crop,
	CreatedAt time.Time // and its time
	Crop      []byte    // sealed
}

// Coverage counts what a gallery has of a model.
type Coverage struct {
	Subjects  int // that have a template of any model
	Covered   int // of those, that have one of the model
	Pending   int // samples with a crop that lack a template of it
	Uncovered int // subjects that need a new photo
}

// Result is the answer of a search.
type Result struct {
	Candidates  []face.Candidate
	GallerySize int // subjects with a template of the model
}

// Keys are the API keys of all tenants.
type Keys interface {
	// CreateKey stores a key. Conflict: the id or the hash is taken.
	CreateKey(ctx context.Context, k face.Key) error
	// KeyByHash finds a key by the SHA-256 of its secret, revoked and expired
	// ones too: the caller asks [face.Key.Live]. NotFound.
	KeyByHash(ctx context.Context, hash []byte) (face.Key, error)
	// ListKeys lists the keys of a tenant, or of all with an empty tenant, oldest first.
	ListKeys(ctx context.Context, tenant string) ([]face.Key, error)
	// RevokeKey ends a key. Revoking one twice keeps the first time. NotFound.
	RevokeKey(ctx context.Context, id string, at time.Time) error
}

// Idempotency remembers the answers given under an Idempotency-Key, so that a
// caller who never saw an answer can ask again. Records are kept at least
// [IdempotencyTTL] and purged afterwards.
type Idempotency interface {
	// BeginRequest claims a key for a request. It returns nil when the caller
	// must carry the request out and then call EndRequest. When the same
	// request was answered before, it returns that answer. Conflict: the key
	// was used for another request (another fingerprint), or the first one is
	// still under way. NotFound: the answer told of somebody who has been
	// erased since, and with them the answer; carrying the request out again
	// would bring them back. A claim that a crash left open is free again after
	// the restart; where several servers share the store, after [ClaimTTL].
	BeginRequest(ctx context.Context, tenant, key string, fingerprint []byte) (*Answer, error)
	// EndRequest stores the answer of a claimed key, or, with nil, gives the
	// claim up. Of an answer about a subject who is not there any more nothing
	// is stored but that it was given. The claim ends even when storing fails. Give it a context that
	// outlives the request: whoever went away is the one who will ask again.
	// Conflict: the key is not claimed.
	EndRequest(ctx context.Context, tenant, key string, a *Answer) error
}

// ClaimTTL is how long a request with an Idempotency-Key may take.
const ClaimTTL = time.Minute

// IdempotencyTTL is how long an answer can be asked for again.
const IdempotencyTTL = 24 * time.Hour

// Answer is an HTTP answer as it was given.
type Answer struct {
	Status   int
	Location string // the Location header; empty when there is none
	Body     []byte

	// The subject that the answer tells of, whose erasure erases it as well;
	// both empty when it tells of nobody.
	Gallery, Subject string
}
