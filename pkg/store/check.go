package store

// Finding is something that is wrong with a store. It names what it is about
// by ids, and has nothing of an embedding or a picture in it.
type Finding struct {
	Check      string `json:"check"` // one of the constants below
	Tenant     string `json:"tenant,omitempty"`
	Gallery    string `json:"gallery,omitempty"`
	SubjectID  string `json:"subject_id,omitempty"`
	TemplateID string `json:"template_id,omitempty"`
	Detail     string `json:"detail"` // what is wrong
	Mend       string `json:"mend"`   // what to do about it
}

// What a check of a store looks at.
const (
	CheckFile      = "file"      // the pages and indexes of the embedded store's file
	CheckReference = "reference" // rows that refer to one another
	CheckEmbedding = "embedding" // each embedding, by its checksum, length and norm
	CheckCount     = "count"     // the counts that galleries keep
	CheckFused     = "fused"     // what Postgres searches of subjects with several templates
	CheckCrop      = "crop"      // that each crop has a template, and its subject
	CheckAudit     = "audit"     // the chain of audit records, up to its head
)

// How to mend what a check has found.
const (
	MendRestore  = "restore the last good backup (likeness restore, or pg_restore)"
	MendTemplate = "erase the template (DELETE /galleries/{gallery}/subjects/{subject}/templates/{template}) and enrol the subject again, " +
		"or restore the last good backup"
	MendAudit = "keep a copy of the store as evidence and compare with the last hash that you noted; then restore the last good backup"
)
