package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"
)

// Audit is the chain of records of what was erased or exported and, where the
// server is told to, of what was decided. It never holds an embedding or an image.
type Audit interface {
	// RecordDecision adds a record of a decision, or of an export, which decides nothing. It is durable when the
	// method returns. Those that come at the same moment share a commit.
	RecordDecision(ctx context.Context, tenant string, by Actor, d Decision) error
	// AuditTrail calls emit for each record after the one with the given
	// number, in order, and stops at its first error.
	AuditTrail(ctx context.Context, after int64, emit func(AuditRecord) error) error
	// VerifyAudit checks that the records are those that were written: all of
	// them, in order, unchanged, and returns how many there are. It cannot see
	// a chain that was made anew as a whole by somebody who may write to the
	// store; for that, keep the ids of the receipts, or the last hash,
	// elsewhere. Internal: the first record that is not right.
	VerifyAudit(ctx context.Context) (int64, error)
	// RestoreAudit takes over the records of another store, as they are. They
	// must begin the chain or follow its last record. Conflict: they do not.
	RestoreAudit(ctx context.Context, records []AuditRecord) error
}

// Decision is what a verification or an identification ended with. That of an
// export has an action and a gallery alone.
type Decision struct {
	Action    string // AuditVerify, AuditIdentify or AuditExport
	Gallery   string
	SubjectID string // the claimed one, or the best candidate of a match
	Decision  string // as in the answer: match, non_match, unknown, ...
}

// What an audit record says was done.
const (
	AuditEraseGallery  = "gallery.erase"
	AuditEraseSubject  = "subject.erase"
	AuditEraseTemplate = "template.erase"
	AuditExpire        = "template.expire"
	AuditExport        = "gallery.export" // was begun
	AuditVerify        = "verify"
	AuditIdentify      = "recognize"
)

// AuditRecord is one record of the chain. The JSON without Prev and Hash is
// what the hash is taken over, so the fields, their names and their order are
// part of every store's format; one that is added must be left out when empty.
type AuditRecord struct {
	Seq        int64  `json:"seq"` // from 1, without gaps
	ID         string `json:"audit_id"`
	Tenant     string `json:"tenant"`
	At         int64  `json:"at"` // microseconds since 1970
	KeyID      string `json:"key_id"`
	RequestID  string `json:"request_id"`
	Action     string `json:"action"`
	Gallery    string `json:"gallery"`
	SubjectID  string `json:"subject_id"`
	TemplateID string `json:"template_id"`
	Subjects   int    `json:"subjects"`
	Templates  int    `json:"templates"`
	Images     int    `json:"images"`
	Decision   string `json:"decision,omitempty"`

	Prev []byte `json:"-"` // the hash of the record before; empty for the first
	Hash []byte `json:"-"` // SHA-256 of Prev and the JSON
}

// Time is when it was done.
func (r AuditRecord) Time() time.Time { return time.UnixMicro(r.At).UTC() }

// Follow puts the record behind the one that has the given number and hash.
func (r *AuditRecord) Follow(seq int64, hash []byte) error {
	r.Seq, r.Prev = seq+1, hash
	var err error
	r.Hash, err = r.sum()
	return err
}

func (r *AuditRecord) sum() ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append(bytes.Clone(r.Prev), body...))
	return sum[:], nil
}

// AuditChain checks records as they come by. The zero value expects the first
// record of a chain.
type AuditChain struct {
	Seq  int64 // of the last record
	Hash []byte
}

// Next checks that the record is the one that was written after the last.
func (c *AuditChain) Next(r AuditRecord) error {
	want, err := r.sum()
	if err != nil {
		return err
	}
	if r.Seq != c.Seq+1 || !bytes.Equal(r.Prev, c.Hash) || !bytes.Equal(r.Hash, want) {
		return fmt.Errorf("audit record %d is not the one that was written after record %d", r.Seq, c.Seq)
	}
	c.Seq, c.Hash = r.Seq, r.Hash
	return nil
}
