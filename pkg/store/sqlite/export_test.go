package sqlite

import (
	"context"
	"fmt"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// DeleteSubjects is a step of DeleteGallery on a full disk.
func (s *Store) DeleteSubjects(ctx context.Context, tenant, gallery string, n int, by store.Actor) (face.Receipt, error) {
	return s.deleteSubjects(ctx, tenant, gallery, n, by)
}

// LimitPages lets the file grow no further than so many pages more, which
// SQLite reports as it reports a full disk.
func (s *Store) LimitPages(ctx context.Context, more int) error {
	return s.db.change(ctx, func(tx *transaction) error {
		var pages int
		if _, err := tx.scanFirst([]any{&pages}, "PRAGMA page_count"); err != nil {
			return err
		}
		_, err := tx.scanFirst([]any{&pages}, fmt.Sprintf("PRAGMA max_page_count = %d", pages+more))
		return err
	})
}

// Pragma reads a pragma of the connection that writes.
func (s *Store) Pragma(ctx context.Context, name string) (value string, err error) {
	err = s.db.change(ctx, func(tx *transaction) error {
		_, err := tx.scanFirst([]any{&value}, "PRAGMA "+name)
		return err
	})
	return value, err
}

// OpenSnapshot holds a snapshot of a reader until the returned function is
// called.
func (s *Store) OpenSnapshot(ctx context.Context) (end func() error) {
	held, release, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		ended <- s.db.view(ctx, func(v session) error {
			var n int
			_, err := v.scanFirst([]any{&n}, "SELECT count(*) FROM gallery") // the snapshot begins with a read
			close(held)
			<-release
			return err
		})
	}()
	<-held
	return func() error { close(release); return <-ended }
}

// EncodeEmbedding is how an embedding lies in the file.
var EncodeEmbedding = encodeEmbedding

// Checksum is that of an embedding as it lies in the file.
var Checksum = checksum

// ScopeTemplateIDs is the fifth migration.
var ScopeTemplateIDs = scopeTemplateIDs

// ScrubPage is scrubPage.
var ScrubPage = scrubPage

// LastTemplateRow is the row id of the newest template.
func (s *Store) LastTemplateRow(ctx context.Context) (row int, err error) {
	err = s.db.view(ctx, func(v session) error {
		row, err = v.count(`SELECT max(row_id) FROM template`)
		return err
	})
	return row, err
}
