package store

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/likeness-id/likeness/pkg/face"
)

// Limits that every store keeps.
const (
	// MaxK is the longest candidate list.
	MaxK = 1000
	// MaxRetentionDays is a hundred years: it stays far from overflowing in
	// microseconds.
	MaxRetentionDays = 36500
	// MaxCrop bounds a sealed crop, in bytes.
	MaxCrop = 256 << 10
)

// Stamp is the time a row is given: the one asked for, or the present, in UTC
// to the microsecond.
func Stamp(asked time.Time) time.Time {
	if asked.IsZero() {
		asked = time.Now()
	}
	return asked.UTC().Truncate(time.Microsecond)
}

// CheckGallery is Invalid for a gallery that no store takes.
func CheckGallery(op, tenant, gallery string, retentionDays int) error {
	switch {
	case !face.ValidID(tenant):
		return face.Errorf(face.Invalid, op, "not a valid tenant")
	case !face.ValidID(gallery):
		return face.Errorf(face.Invalid, op, "not a valid gallery name")
	case retentionDays < 0 || retentionDays > MaxRetentionDays:
		return face.Errorf(face.Invalid, op, "retention_days must be 0 to %d", MaxRetentionDays)
	}
	return nil
}

// CheckModel is Invalid for an id that no model has. An empty one is none.
func CheckModel(op, modelID string) error {
	if modelID != "" && !face.ValidID(modelID) {
		return face.Errorf(face.Invalid, op, "not a valid model_id")
	}
	return nil
}

// CheckSubject is Invalid for a subject that no store takes.
func CheckSubject(op string, s face.Subject) error {
	switch {
	case !face.ValidID(s.ID):
		return face.Errorf(face.Invalid, op, "not a valid subject_id")
	case utf8.RuneCountInString(s.Name) > face.MaxNameLength:
		return face.Errorf(face.Invalid, op, "name has more than %d characters", face.MaxNameLength)
	case utf8.RuneCountInString(s.ExternalID) > face.MaxNameLength:
		return face.Errorf(face.Invalid, op, "external_id has more than %d characters", face.MaxNameLength)
	case strings.ContainsRune(s.Name+s.ExternalID, 0) || bytes.IndexByte(s.Metadata, 0) >= 0:
		return face.Errorf(face.Invalid, op, "name, external_id or metadata has a NUL character")
	case !utf8.ValidString(s.Name) || !utf8.ValidString(s.ExternalID) || !utf8.Valid(s.Metadata):
		return face.Errorf(face.Invalid, op, "name, external_id or metadata is not UTF-8")
	case len(s.Metadata) > face.MaxMetadata:
		return face.Errorf(face.Invalid, op, "metadata has more than %d bytes", face.MaxMetadata)
	}
	return nil
}

// CheckFilter is Invalid for a filter that no subject can pass.
func CheckFilter(op string, f SubjectFilter) error {
	return CheckSubject(op, face.Subject{ID: "any", Name: f.Name, ExternalID: f.ExternalID})
}

// CheckTemplate is Invalid for a template that no store takes. The embedding's
// numbers are the index's to check.
func CheckTemplate(op string, t face.Template) error {
	switch {
	case !face.ValidID(t.ID):
		return face.Errorf(face.Invalid, op, "not a valid template_id")
	case t.SampleID != "" && !face.ValidID(t.SampleID):
		return face.Errorf(face.Invalid, op, "not a valid sample_id")
	case !face.ValidID(t.ModelID):
		return face.Errorf(face.Invalid, op, "not a valid model_id")
	case !(t.Quality >= 0 && t.Quality <= 1):
		return face.Errorf(face.Invalid, op, "quality must be 0 to 1")
	case len(t.Crop) > MaxCrop:
		return face.Errorf(face.Invalid, op, "the crop has more than %d bytes", MaxCrop)
	}
	return nil
}

// CheckK is Invalid for a candidate list of a length that no store gives.
func CheckK(op string, k int) error {
	if k < 1 || k > MaxK {
		return face.Errorf(face.Invalid, op, "k must be 1 to %d", MaxK)
	}
	return nil
}
