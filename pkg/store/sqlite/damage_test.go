package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// Whatever part of the file is zero, no list goes round: each ends, with an
// error or without, and has nobody twice.
func TestListsOfDamagedFileEnd(t *testing.T) {
	t.Parallel()
	const people, block = 600, 4 << 10
	path := filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	var records []store.Record
	for i := range people {
		id := fmt.Sprintf("s%05d", i)
		records = append(records, store.Record{
			Subject:   face.Subject{ID: id, Name: "name of " + id},
			Templates: []face.Template{{ID: "t" + id, ModelID: model, Embedding: embedding(i, 4)}},
		})
	}
	if _, err := s.Import(t.Context(), tenant, face.DefaultGallery, records); err != nil {
		t.Fatal(err)
	}
	closing(t, s)
	sqlExec(t, path, "PRAGMA wal_checkpoint(TRUNCATE)")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for at := 16 << 10; at+block <= len(whole); at += 3 * block {
		b := append([]byte{}, whole...)
		clear(b[at : at+block])
		path := filepath.Join(t.TempDir(), "likeness.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
		if err != nil {
			continue
		}
		lists := map[string]func(see func(id string) error) error{
			"Export": func(see func(string) error) error {
				return s.Export(t.Context(), tenant, face.DefaultGallery, "", func(r store.Record) error { return see(r.Subject.ID) })
			},
			"ListSubjects": func(see func(string) error) error {
				p := store.Page{Limit: 40}
				for {
					items, next, err := s.ListSubjects(t.Context(), tenant, face.DefaultGallery, store.SubjectFilter{}, p)
					for _, sub := range items {
						err = errors.Join(err, see(sub.ID))
					}
					if err != nil || next == "" {
						return err
					}
					p.Cursor = next
				}
			},
		}
		for name, list := range lists {
			seen := map[string]bool{}
			err := list(func(id string) error {
				if seen[id] {
					t.Errorf("%s with zeros at %d gives %s twice", name, at, id)
					return errors.New("enough")
				}
				seen[id] = true
				return nil
			})
			if err != nil {
				refused++
			}
		}
		_ = s.Close() // it may notice the damage, too
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}
